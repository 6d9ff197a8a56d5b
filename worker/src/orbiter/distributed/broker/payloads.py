"""Which task a payload names: by the form in which it is written, or by a JSON parser."""

from __future__ import annotations

import json
import re

from orbiter.distributed.names import LONGEST_TASK_ID, RESERVED_TASK_IDS, check_task_id

_PLAIN = re.compile(r'\{"task_id": ?"([A-Za-z0-9_.:@-]+)"')


def plain_task_id(text: str) -> str:
    """Return the task id of a payload that is written as 0.1 clients and ours write it, or an empty text.

    The contract, kept by ``lua/lib/plain_task_id.lua`` too, as the scripts that claim start tasks by it: the text
    begins with ``{"task_id":"ID"``, with at most one space behind the colon, and ID is 1 to 200 of letters, digits and
    ``_ . : @ -`` (ASCII), and not reserved. An empty text says nothing about a payload: keys may come in any order, and
    what does not begin so is read by a JSON parser. An id says nothing about the rest of the text: a task runs only if
    a JSON parser finds the same id in the whole.
    """
    found = _PLAIN.match(text)
    if found is None:
        return ""
    task_id = found[1]
    return "" if len(task_id) > LONGEST_TASK_ID or task_id in RESERVED_TASK_IDS else task_id


def named_task_id(text: str) -> str:
    """Return the task id that a payload names by a JSON parser, although it may be no valid task; or an empty text."""
    try:
        value = json.loads(text)
        task_id = value.get("task_id") if isinstance(value, dict) else None
        return "" if task_id is None else check_task_id(task_id)
    except (ValueError, RecursionError):
        return ""
