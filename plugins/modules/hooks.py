#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the hooks before a deploy, and notes those of its end."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hooks
short_description: Run commands before a deploy and at its end
version_added: 0.2.0
description:
  - Runs O(before_deploy), one after another, on the controller. The first one that fails ends the task.
  - Notes O(after_deploy) and O(after_failure), one of which the callback P(orbiter.fleet.hooks#callback) runs at the
    end of the run, whichever way that ends.
  - They learn about the run from C(ORBITER_*) of their environment; a webhook is posted the same as JSON.
options:
  state:
    description: With V(known), nothing is run, and O(release) is noted for those at the end.
    type: str
    choices: [began, known]
    default: began
  before_deploy:
    description: Commands, each a text, which a shell reads, or a list of words; or webhooks, each with C(url) alone.
    type: list
    elements: raw
    default: []
  after_deploy:
    description: Commands for the end of a run in which nothing failed.
    type: list
    elements: raw
    default: []
  after_failure:
    description: Commands for the end of a run in which a host failed, or could not be reached.
    type: list
    elements: raw
    default: []
  timeout:
    description: Seconds that each of them may take. It is stopped then, and has failed.
    type: int
    default: 60
  hosts:
    description: The hosts of the run, for C(ORBITER_HOSTS).
    type: list
    elements: str
    default: []
  release:
    description: The release that the run brings, for C(ORBITER_RELEASE).
    type: str
    default: ""
attributes:
  check_mode:
    description: Looks at the commands, and runs none.
    support: full
  diff_mode:
    description: Nobody knows what a command changes.
    support: none
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Tell others that a deploy begins, and how it ends
  orbiter.fleet.hooks:
    before_deploy:
      - [./tell, deploy begins]
    after_deploy:
      - ./tell "$ORBITER_PLAYBOOK of $ORBITER_RELEASE by $ORBITER_USER has ended"
    after_failure:
      - ./tell "$ORBITER_PLAYBOOK failed on $ORBITER_FAILED_HOSTS"
  run_once: true
"""

RETURN = r"""
ran:
  description: How many commands have run and webhooks were told.
  returned: always
  type: int
  sample: 1
"""
