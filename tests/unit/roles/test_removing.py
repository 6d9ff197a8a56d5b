"""What a removal would do is read by a person: a check names folders, and not each file of a release in them."""

from __future__ import annotations

import re

from plays import tasks

# Where releases and data lie: thousands of files.
LARGE = re.compile(r"/(opt|var/lib)/")


def removed(task):
    """Return what a task removes, as text."""
    told = task.own.get("ansible.builtin.file")
    gone = isinstance(told, dict) and told.get("state") == "absent"
    return f"{told.get('path')} {task.own.get('loop')}" if gone else ""


def test_no_check_lists_each_file_of_a_folder_that_would_go():
    large = [task for task in tasks() if LARGE.search(removed(task))]
    assert len(large) > 3  # they are found
    assert [task.place for task in large if task.own.get("diff") is not False] == []
