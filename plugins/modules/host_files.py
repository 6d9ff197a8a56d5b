#!/usr/bin/python
# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write several files in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Write several files and folders in one step
version_added: 0.1.0
description:
  - Brings all given files to the given content, owner and mode, in the order given.
  - C(ansible.builtin.template) takes two steps a file, this takes one for all of them.
  - A file appears under its name only when it is complete. One that is as wanted is not touched.
author: Orbiter Fleet authors (@orbiter-fleet)
options:
  files:
    description: The files and folders. A folder comes before what lies in it.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is on the host.
        type: path
        required: true
      content:
        description: What a file holds. Without it, and without an entry in O(secrets), this is a folder.
        type: str
      owner:
        description: Who owns it.
        type: str
        default: root
      group:
        description: Which group has it.
        type: str
        default: root
      mode:
        description: Its permissions, in octal digits.
        type: str
        required: true
      only:
        description:
          - The names that a folder may hold. Everything else in it is removed. Where there is no folder, none is made.
        type: list
        elements: str
        version_added: 0.2.0
      shown:
        description:
          - Of a file in O(secrets) that has lines as C(NAME="value"), the names whose values a diff may show.
        type: list
        elements: str
        default: []
        version_added: 0.2.0
  secrets:
    description:
      - What files hold that nobody else may see, by their paths in O(files). It is in no output and no log. A diff
        tells that a value is another one, and shows only what O(files[].shown) names.
    type: dict
    default: {}
  units:
    description: Units of systemd, to tell in the same step whether anything is left to do to them.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
attributes:
  check_mode:
    description: Tells what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes; of files that hold secrets, in which lines.
    support: full
"""

EXAMPLES = r"""
- name: Write the settings and the unit
  orbiter.fleet.host_files:
    files:
      - {path: /etc/orbiter, group: orbiter, mode: "0750"}
      - path: /etc/orbiter/worker.env
        mode: "0600"
        shown: [ORBITER_QUEUE, ORBITER_CONCURRENCY]
      - path: /etc/systemd/system/orbiter-workers.target
        content: "{{ lookup('ansible.builtin.template', 'orbiter-workers.target.j2') }}"
        mode: "0644"
    secrets:
      /etc/orbiter/worker.env: "{{ lookup('ansible.builtin.template', 'worker.env.j2') }}"
"""

RETURN = r"""
paths:
  description: The files and folders that were changed.
  returned: always
  type: list
  elements: str
  sample: [/etc/orbiter/worker.env]
units:
  description:
    - For each of O(units), whether it is active, starts with the host, and systemd has read its file as it is. Told
      before a file that was written counts.
  returned: always
  type: dict
  sample: {redis-server.service: true}
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _host

# A comment, or a setting, whose value may have several lines; as the roles write the environment of services.
SETTING = re.compile(r'(?:#[^\n]*|(?P<name>\w+)="(?:[^"\\]|\\.)*")(?:\n|\Z)', re.DOTALL)


def read(path: str) -> str | None:
    """Return what a file holds, or None where there is none."""
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else None


def write(module: AnsibleModule, path: str, content: str) -> None:
    """Write a file that appears only when it is complete."""
    descriptor, scratch = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    module.atomic_move(scratch, path)


def pieces(content: str, shown: list[str]) -> list[tuple[str, str]]:
    """Return what a file with secrets consists of: what may be shown of each piece, and the piece."""
    found, position = [], 0
    while shown and (piece := SETTING.match(content, position)):
        name, text = piece["name"], piece[0].rstrip("\n")
        found.append((text if name is None or name in shown else f"{name}=", text))
        position = piece.end()
    return [*found, ("", content[position:])] if content[position:] else found


def masked(content: str, other: str, shown: list[str]) -> str:
    """Return what a diff may show of a file with secrets, and that a hidden value is not the one in the other text."""
    known = {text for dummy, text in pieces(other, shown)}
    return "".join(
        f"{said}\n" if said == text else f"{said}({'hidden' if text in known else 'hidden, and not the same'})\n"
        for said, text in pieces(content, shown)
    )


def purge(module: AnsibleModule, entry: dict, diffs: list[dict]) -> bool:
    """Remove from a folder what it may not hold; tell whether there was any."""
    path = entry["path"]
    surplus = sorted(set(os.listdir(path)) - set(entry["only"])) if Path(path).is_dir() else []
    for inner in [Path(path, name) for name in surplus]:
        diffs.append({"before": f"{inner}\n", "after": "", "before_header": path, "after_header": path})
        if not module.check_mode and inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        elif not module.check_mode:
            inner.unlink()
    return bool(surplus)


def bring(module: AnsibleModule, entry: dict, diffs: list[dict]) -> bool:
    """Bring one file or folder to what is wanted; tell whether anything changed."""
    path = entry["path"]
    if entry["only"] is not None:
        return purge(module, entry, diffs)
    secret = path in module.params["secrets"]
    wanted = module.params["secrets"][path] if secret else entry["content"]
    missing = not Path(path).exists()
    changed = missing
    if wanted is None and missing and not module.check_mode:
        Path(path).mkdir(parents=True)
    if wanted is not None:
        present = read(path)
        changed = present != wanted
        if changed:
            texts = (present or "", wanted)
            if secret:
                texts = masked(*texts, entry["shown"]), masked(*reversed(texts), entry["shown"])
            diffs.append({"before": texts[0], "after": texts[1], "before_header": path, "after_header": path})
        if changed and not module.check_mode:
            write(module, path, wanted)
    if missing and module.check_mode:
        return True  # it has no owner and no mode to compare
    rights = {key: entry[key] for key in ("path", "owner", "group", "mode")}
    return module.set_fs_attributes_if_different(module.load_file_common_arguments(rights), changed)


def runs(unit: str) -> bool:
    """Tell whether a unit needs nothing more: it is active, starts with the host, and its file is known to systemd."""
    shown = _host.show(unit, "ActiveState", "UnitFileState", "NeedDaemonReload")
    return shown == {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}


def main() -> None:
    """Write what differs."""
    entry = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "required": True},
        "only": {"type": "list", "elements": "str"},
        "shown": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": entry},
            # Not beside the content: of an option inside another one, the module's line in the host's log would tell.
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)  # nobody else reads a new file before it has its own rights
    diffs: list[dict] = []
    units = {unit: runs(unit) for unit in module.params["units"]}
    paths = [entry["path"] for entry in module.params["files"] if bring(module, entry, diffs)]
    module.exit_json(changed=bool(paths), paths=paths, units=units, diff=diffs)


if __name__ == "__main__":
    main()
