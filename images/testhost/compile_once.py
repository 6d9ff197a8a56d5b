"""Compile what Python imports from a zip file once on this host, and not each time.

Ansible sends a module with all that it imports, as source in a zip file, and of a zip file Python keeps nothing that it
has compiled: a third of what a task costs a host is to compile the same again. On test hosts every Python begins with
this (testhost_compile_once). What is kept is found by the source itself.
"""

import zipimport

KEPT = "/var/cache/compile-once"
compile_source = zipimport._compile_source


def compile_once(path, source):
    """Return the code of a module's source, compiled now or earlier."""
    # Here, because most Pythons import nothing from a zip file.
    import hashlib
    import marshal
    import os

    kept = os.path.join(KEPT, hashlib.sha256(source).hexdigest())
    try:
        with open(kept, "rb") as file:
            return marshal.loads(file.read())
    except (OSError, ValueError, EOFError):
        pass
    code = compile_source(path, source)
    new = f"{kept}.{os.getpid()}"
    try:
        os.makedirs(KEPT, mode=0o700, exist_ok=True)
        with open(new, "wb") as file:
            file.write(marshal.dumps(code))
        os.replace(new, kept)  # all of it or nothing: tasks run at the same time
    except OSError:  # not everybody may write there
        pass
    return code


zipimport._compile_source = compile_once
