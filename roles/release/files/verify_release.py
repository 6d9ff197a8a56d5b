"""Check, without a network, that an archive is the release that it is taken for, and signed by somebody who may.

Usage: verify_release.py VERSION TARGET ARCHIVE <SIGNERS, with public keys of OpenSSH as a JSON list
Prints the archive's SHA-256: what is installed must have it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path

import signing
from pins import BuildError


def main() -> None:
    """Check, and print."""
    version, target, archive = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    try:
        signing.verify(archive, json.load(sys.stdin))
    except BuildError as error:
        sys.exit(str(error))
    # Otherwise an old archive could be passed off as a new one.
    with tarfile.open(archive) as tar:
        inside = tar.extractfile("release.json") if "release.json" in tar.getnames() else None
        found = json.load(inside) if inside else {}
    if found != {"version": version, "target": target}:
        sys.exit(
            f"{archive} is signed, but as release {found.get('version', 'without a name')} for "
            f"{found.get('target', 'hosts unknown')}, and was given as {version} for {target}"
        )
    print(hashlib.sha256(archive.read_bytes()).hexdigest())


main()
