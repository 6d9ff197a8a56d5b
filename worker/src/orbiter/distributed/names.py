"""Names that people choose, of namespaces, queues, workers, tasks and models: one rule each, wherever it comes in."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

DEFAULT_NAMESPACE = "orbiter"
LONGEST_NAMESPACE = 64
LONGEST_TASK_ID = 200
# {namespace}:task:{id} would be one of our own keys.
RESERVED_TASK_IDS = frozenset({"index", "by_time", "ended"})
# Likewise {namespace}:{queue}.
_RESERVED_QUEUES = re.compile(r"fleet|deploys?|audit|(?:task|stream|workers):.*")
_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
# What pydantic-ai is given to find a model by: never an address, or a path that leaves the provider's own.
_MODEL = re.compile(r"(?!.*(?://|:/|(?:^|[:/])\.\.?(?:$|/)))[A-Za-z0-9][A-Za-z0-9_.:@+/-]{0,255}")
_MODEL_RULE = (
    "provider:name, 1 to 256 letters (a to z, A to Z), digits, or any of _ . : @ + / -, without an address (//) or a"
    " path (/ at the beginning, ..)"
)
_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.:@+/*-]{0,255}")
# A module, or a dotted name in one. ASCII only: Python folds look-alike letters of source code into one name, getattr
# does not.
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_ENTRY_ID = re.compile(r"[0-9]{1,20}(?:-[0-9]{1,20})?")
_NAMESPACE = re.compile(rf"[A-Za-z0-9_.-]{{1,{LONGEST_NAMESPACE}}}")
_SHOWN = 60


class InvalidNameError(ValueError):
    """A name breaks its rule; the message says the name, what it was to name, and the rule."""


def check_namespace(name: str) -> str:
    """Return a namespace, as it is. In braces it puts all its keys into one slot of a cluster.

    Raises:
        InvalidNameError: It breaks the rule.
    """
    if not isinstance(name, str) or not _NAMESPACE.fullmatch(_without_braces(name)):
        rule = f"1 to {LONGEST_NAMESPACE} letters (a to z, A to Z), digits, or any of _ . -; all of it may be in braces"
        raise _refused(name, "namespace", rule)
    return name


def default_queue(namespace: str) -> str:
    """Return the name of a namespace's default queue."""
    return f"{namespace}:tasks"


def queue_in(namespace: str, queue: str) -> str:
    """Return the whole name of a queue, which begins with its namespace; in the default one any name is whole."""
    if namespace == DEFAULT_NAMESPACE or queue.startswith(f"{namespace}:"):
        return queue
    if queue == default_queue(DEFAULT_NAMESPACE):
        return default_queue(namespace)
    return f"{namespace}:{queue}"


def check_queue_name(name: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """Return the whole name of a queue.

    Args:
        name: The queue, with its namespace or without it.
        namespace: The namespace.

    Raises:
        InvalidNameError: The queue's name or the namespace breaks its rule.
    """
    check_namespace(namespace)
    before = f"{namespace}:"
    plain = name.removeprefix(before) if isinstance(name, str) and namespace != DEFAULT_NAMESPACE else name
    _checked(plain, "queue name")
    whole = queue_in(namespace, name)
    if _RESERVED_QUEUES.fullmatch(whole.removeprefix(before)) and whole.startswith(before):
        raise _refused(name, "queue name", f"another one: {whole} is a key of the fleet")
    return whole


def check_whole_queue_name(name: str) -> str:
    """Return the whole name of a queue in whatever namespace.

    Raises:
        InvalidNameError: No queue can have this name.
    """
    head, colon, _ = name.partition(":") if isinstance(name, str) else ("", "", "")
    named = bool(colon) and _NAMESPACE.fullmatch(_without_braces(head)) is not None
    _checked(name[len(head) + 1 :] if named else name, "queue name")
    return name


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
        reserved = ", ".join(sorted(RESERVED_TASK_IDS))
        raise _refused(name, "task id", f"1 to {LONGEST_TASK_ID} characters; {reserved} are reserved")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise _refused(name, "task id", "Unicode text") from None
    return name


def check_entry_id(name: str) -> str:
    """Return the id of an event in its task's stream, as it is; ``0`` stands for the beginning.

    Raises:
        InvalidNameError: It is none.
    """
    if not isinstance(name, str) or not _ENTRY_ID.fullmatch(name) or max(map(int, name.split("-"))) >= 2**64:
        raise _refused(name, "entry id of an event", "event.entry_id of one that was read, as in 1771324215900-0")
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


def check_module_prefix(name: str) -> str:
    """Return a module that tasks may import from, as it is; ``*`` is every module.

    Raises:
        InvalidNameError: It is neither.
    """
    if not isinstance(name, str) or not (name == "*" or MODULE.fullmatch(name)):
        rule = "names of Python (letters from a to z or A to Z, digits, _) with dots between, as in myapp.tools"
        raise _refused(name, "module prefix", rule)
    return name


def _without_braces(name: str) -> str:
    return name[1:-1] if name.startswith("{") and name.endswith("}") else name


def _checked(name: str, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refused(name, what, "1 to 128 letters (a to z, A to Z), digits, or any of _ . : @ -")
    return name


def _refused(name: object, what: str, rule: str) -> InvalidNameError:
    text = ascii(name)
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}... ({len(str(name))} characters)"
    return InvalidNameError(f"{text} is no {what}: use {rule}")


Namespace = Annotated[str, AfterValidator(check_namespace)]
WorkerId = Annotated[str, AfterValidator(check_worker_id)]
TaskId = Annotated[str, AfterValidator(check_task_id)]
ModelPattern = Annotated[str, AfterValidator(check_model_pattern)]
ModulePrefix = Annotated[str, AfterValidator(check_module_prefix)]
