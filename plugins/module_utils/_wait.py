# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time

# Seconds for what takes its time with gigabytes on a slow disk.
PATIENCE = 3600.0


class NotInTimeError(Exception):
    """What was waited for has not come; the message says what, and how long it was waited."""


def wait_until(true, message, within=None, pause=0.1):
    """Wait for a condition.

    Args:
        true: Tells whether it is true.
        message: What is wrong if it does not come.
        within: Seconds that it may take.
        pause: Seconds between two looks.

    Raises:
        NotInTimeError: It did not come.
    """
    within = PATIENCE if within is None else within
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"{message} (waited {within:.0f} s)")
        time.sleep(pause)
