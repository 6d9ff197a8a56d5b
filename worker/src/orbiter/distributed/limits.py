"""Limits, times to live and names of variables: each fact once, for settings, messages and scripts."""

from __future__ import annotations

import os

from orbiter.distributed.errors import SettingsError

# Seconds for which Redis keeps the record of an ended task, and its events; the trace of a drained worker, too.
TASK_TTL = 86_400
EVENT_TTL = 3_600
FLEET_TTL = 86_400
DEAD_LETTERS_TTL = 7 * 86_400
# Minutes for which a queue's counts are kept, each in a place of its own that the next day's takes; and for how many
# seconds after the last of them.
MINUTES = 1_440
MINUTES_TTL = 90_000
# Of the tokens of a day.
USAGE_TTL = 36 * 86_400
# Of keys that were moved aside, as they were of no use.
BROKEN_TTL = 7 * 86_400
# Bytes of JSON.
MAX_PAYLOAD_BYTES = 1_000_000
MAX_RESULT_BYTES = 1_000_000
MAX_EVENT_BYTES = 1_000_000
# Temporal takes no larger input or result: servers refuse more than 2 MiB, and gRPC more than 4 at once. As a string
# within JSON a task of the default limit has 2 MB at most.
LARGEST_DURABLE = 2_090_000
# A checkpoint goes to the next run beside the task, and from a run that failed beside its error. A small one
# always fits.
LARGEST_CHECKPOINT = 1_800_000
SMALL_CHECKPOINT = 50_000
LARGEST_DURABLE_TASK = LARGEST_DURABLE - SMALL_CHECKPOINT
# Characters of text that are made one event.
MERGED_TEXT = 100_000
# At most, as JSON, with what is around them: a character beyond the first 65 536 is written as two escapes.
BYTES_A_CHARACTER = 16
# Of events that were emitted and that Redis has not taken yet: of one run, and of all runs of a process.
MAX_BACKLOG = 4_000_000
MAX_TOTAL_BACKLOG = 48_000_000
LEAST_PAYLOAD_BYTES = 1_000
# What a task may ask for. An hour; agents in one configuration; round trips, stages and hand-offs; repeated runs.
MAX_TASK_TIMEOUT = 3_600.0
MAX_AGENTS = 50
MAX_STEPS = 100
MAX_TASK_RETRIES = 20
# Of one run, as they are on its stream. By the guide's 200 bytes an event, so many are 20 MB of Redis: fifty such tasks
# fill the gigabyte that it recommends. An agent whose answer streams for half an hour without a pause has as many.
MAX_EVENTS = 100_000
# That a task's stream keeps, the newest: some more, as Redis drops whole nodes.
STREAM_EVENTS = 10_000
# Larger events count as several.
BYTES_OF_AN_EVENT = 10_000


def variable(setting: str) -> str:
    """Return the environment variable of a setting, as ``ORBITER_MAX_RETRIES`` of ``max_retries``."""
    return f"ORBITER_{setting.upper()}"


def payload_limit() -> int:
    """Return the largest task that a client submits here, bytes: ``ORBITER_MAX_PAYLOAD_BYTES``, or the default.

    Raises:
        SettingsError: The variable is no such number.
    """
    text = os.environ.get(variable("max_payload_bytes"), "").strip()
    if not text:
        return MAX_PAYLOAD_BYTES
    if not text.isdecimal() or int(text) < LEAST_PAYLOAD_BYTES:
        raise SettingsError(
            f"{variable('max_payload_bytes')}: {text!r} is not a number of bytes; write {LEAST_PAYLOAD_BYTES} or more,"
            f" in digits only, such as {MAX_PAYLOAD_BYTES}"
        )
    return int(text)
