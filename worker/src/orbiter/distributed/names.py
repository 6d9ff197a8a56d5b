"""Names that people choose, of queues, workers, tasks and models: one rule for each, wherever a name comes in."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST_TASK_ID = 200
# orbiter:task:{id} would be one of our own keys.
RESERVED_TASK_IDS = frozenset({"index", "by_time"})
_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
# What pydantic-ai is given to find a model by: never an address, or a path that leaves the provider's own.
_MODEL = re.compile(r"(?!.*(?://|:/|(?:^|[:/])\.\.?(?:$|/)))[A-Za-z0-9][A-Za-z0-9_.:@+/-]{0,255}")
_MODEL_RULE = (
    "provider:name, 1 to 256 letters (a to z, A to Z), digits, or any of _ . : @ + / -, without an address (//) or a"
    " path (/ at the beginning, ..)"
)
_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.:@+/*-]{0,255}")
_SHOWN = 60


class InvalidNameError(ValueError):
    """A name breaks its rule; the message says the name, what it was to name, and the rule."""


def check_queue_name(name: str) -> str:
    """Return the name of a queue, as it is.

    Raises:
        InvalidNameError: It breaks the rule.
    """
    return _checked(name, "queue name")


def check_worker_id(name: str) -> str:
    """Return the id of a worker, as it is.

    Raises:
        InvalidNameError: It breaks the rule.
    """
    return _checked(name, "worker id")


def check_task_id(name: str) -> str:
    """Return the id of a task, as it is: clients of 0.1 use any text.

    Raises:
        InvalidNameError: It breaks the rule.
    """
    if not isinstance(name, str) or name in RESERVED_TASK_IDS or not 1 <= len(name) <= LONGEST_TASK_ID:
        reserved = " and ".join(sorted(RESERVED_TASK_IDS))
        raise _refused(name, "task id", f"1 to {LONGEST_TASK_ID} characters; {reserved} are reserved")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise _refused(name, "task id", "Unicode text") from None
    return name


def check_model_name(name: str) -> str:
    """Return the name of a model, as it is.

    Raises:
        InvalidNameError: It breaks the rule: it holds an address, for instance.
    """
    if not isinstance(name, str) or not _MODEL.fullmatch(name):
        raise _refused(name, "name of a model", _MODEL_RULE)
    return name


def check_model_pattern(pattern: str) -> str:
    """Return a pattern for names of models, as it is.

    Raises:
        InvalidNameError: It breaks the rule.
    """
    if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
        rule = "a name such as openai:gpt-5, with * for any text, as in openai:gpt-5*; or test, default, *"
        raise _refused(pattern, "pattern for models", rule)
    return pattern


def _checked(name: str, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refused(name, what, "1 to 128 letters (a to z, A to Z), digits, or any of _ . : @ -")
    return name


def _refused(name: object, what: str, rule: str) -> InvalidNameError:
    text = ascii(name)
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}... ({len(str(name))} characters)"
    return InvalidNameError(f"{text} is no {what}: use {rule}")


QueueName = Annotated[str, AfterValidator(check_queue_name)]
WorkerId = Annotated[str, AfterValidator(check_worker_id)]
TaskId = Annotated[str, AfterValidator(check_task_id)]
ModelPattern = Annotated[str, AfterValidator(check_model_pattern)]
