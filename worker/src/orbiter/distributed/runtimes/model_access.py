"""From a model's name to a model of pydantic-ai, and from a provider's failure to what becomes of the task."""

from __future__ import annotations

import os
import re

from pydantic_ai import exceptions
from pydantic_ai.models import Model, infer_model

from orbiter.distributed.errors import (
    ConfigurationError,
    MissingExtraError,
    OrbiterError,
    TransientError,
    how_to_install,
)
from orbiter.distributed.runtimes.model_guard import full_name

# Providers for which the package has an extra of the same name; the others are pydantic-ai's to install.
_EXTRAS = frozenset({"anthropic", "bedrock", "google", "groq", "mistral", "openai"})
# What another run cannot mend: pydantic-ai's name for it, HTTP statuses, and what to tell; the most telling first. By
# name, as some of these classes are younger than the oldest pydantic-ai that we accept.
_HOPELESS: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("ModelContextWindowExceededError", (), "context too long for the model"),
    ("ModelQuotaExceededError", (402,), "the quota of this worker's account is used up"),
    ("ModelAuthenticationError", (401, 403), "the model provider refused the credentials of this worker"),
    ("ModelNotFoundError", (404,), "agent_config.model: the provider does not know it"),
    ("ModelRequestRejectedError", (), "the model provider rejected the request"),
)
_TOO_MANY_REQUESTS = 429


def resolve_model(name: str) -> Model:
    """Return the model of that name.

    With ``OPENAI_BASE_URL``, ``openai:`` means chat completions, as in 0.1: that is what compatible servers speak.
    ``openai-responses:`` and ``openai-chat:`` choose one of the two regardless.

    Raises:
        MissingExtraError: The provider's library is not installed.
        ConfigurationError: The name is unknown, or the provider's credentials are not set on this worker.
    """
    full = full_name(name)
    provider, _, model = full.partition(":")
    try:
        if provider == "openai-chat" or (provider == "openai" and os.environ.get("OPENAI_BASE_URL")):
            return _chat_completions(model)
        return infer_model(full)
    except ImportError as error:
        raise MissingExtraError(
            f"agent_config.model: {full!r} needs a library that is not installed: {_remedy(error, full)}"
        ) from error
    except (exceptions.UserError, ValueError) as error:
        raise ConfigurationError(f"agent_config.model: {full!r}: {error}") from error


def _chat_completions(model: str) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415 - an extra
    from pydantic_ai.profiles.openai import OpenAIModelProfile  # noqa: PLC0415 - needed with it only

    # A stream that merely ends was cut somewhere: half an answer must not count as a whole one.
    return OpenAIChatModel(model, profile=OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True))


def _remedy(error: ImportError, full: str) -> str:
    """Return what to install; pydantic-ai's message names its own extra, also for variants as ``gateway/google``."""
    named = re.search(r"pydantic-ai-slim\[([a-z-]+)\]", str(error))
    extra = named[1] if named else full.partition(":")[0]
    return how_to_install(extra) if extra in _EXTRAS else f"pip install 'pydantic-ai-slim[{extra}]'"


def orbiter_error(error: Exception) -> OrbiterError | None:
    """Return the error of ours that says what becomes of the task, or ``None``: an error like any other, retried."""
    if isinstance(error, exceptions.UserError):
        return ConfigurationError(f"agent_config: {error}")
    if not isinstance(error, exceptions.ModelAPIError):
        return None
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status_code", None)
    for kind, statuses, meaning in _HOPELESS:
        if kind in kinds or status in statuses:
            return ConfigurationError(f"{meaning}: {error}")
    if status == _TOO_MANY_REQUESTS or error.retry_after is not None or "ModelRateLimitError" in kinds:
        return TransientError(str(error), retry_after=error.retry_after)
    return None
