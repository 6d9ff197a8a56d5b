# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection's own YAML files hold."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import yaml

COLLECTION = Path(__file__).parents[2]
# libyaml's is ten times as fast, and not everywhere.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=None)
def read_yaml(path):
    """Return what a file of the collection holds, by its path in it. What is in it is no template."""
    return yaml.load((COLLECTION / path).read_text(encoding="utf-8"), Loader=LOADER)
