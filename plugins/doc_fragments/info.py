# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of every module that only looks."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation that the modules share that change nothing."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in check mode and says the same.
    support: full
  diff_mode:
    description: Has nothing to show, as it changes nothing.
    support: none
"""
