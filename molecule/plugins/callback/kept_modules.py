# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let all plays use what one has packed of a module: half of what a short play costs the controller is to pack them."""

from __future__ import annotations

DOCUMENTATION = """
name: kept_modules
type: aggregate
short_description: Pack modules once for all plays
description:
  - Ansible packs each module with all that the module imports, once a play, into a folder that it removes at the end.
  - Here that folder is one of the checkout's own cache, named by what could be packed.
"""

import hashlib
from pathlib import Path

from ansible import constants
from ansible.plugins.callback import CallbackBase

CHECKOUT = Path(__file__).parents[3]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Puts the folder there before the first task runs."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kept_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        # Ansible's and the collections' versions, and our own plugins.
        parts = [CHECKOUT / "requirements/controller.txt", *sorted((CHECKOUT / "plugins").rglob("*.py"))]
        digest = hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()[:16]
        kept = CHECKOUT / ".cache/modules" / digest
        kept.mkdir(parents=True, exist_ok=True)
        link = Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache")
        if not link.is_symlink():
            link.symlink_to(kept)
