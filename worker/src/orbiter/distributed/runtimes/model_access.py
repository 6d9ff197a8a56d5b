"""From a model's name to a model of pydantic-ai, and from a provider's failure to what becomes of the task."""

from __future__ import annotations

from pydantic_ai import exceptions
from pydantic_ai.models import Model, infer_model

from orbiter.distributed.errors import ConfigurationError, MissingExtraError, OrbiterError, TransientError

# Providers for which the package has an extra of its own; the others are pydantic-ai's to install.
_EXTRAS = {"openai": "openai", "openai-chat": "openai", "openai-responses": "openai", "anthropic": "anthropic"}
_UNAUTHENTICATED = (401, 403)
_UNKNOWN = 404
_TOO_MANY_REQUESTS = 429


def full_name(name: str) -> str:
    """Return the name with its provider: ``gpt-4o`` is OpenAI's, ``test`` is nobody's."""
    return name if ":" in name or name == "test" else f"openai:{name}"


def resolve_model(name: str) -> Model:
    """Return the model of that name.

    Raises:
        MissingExtraError: The provider's library is not installed.
        ConfigurationError: The name is unknown, or the provider's credentials are not set on this worker.
    """
    full = full_name(name)
    try:
        return infer_model(full)
    except ImportError as error:
        provider = full.partition(":")[0]
        package = (
            f"orbiter-distributed[{_EXTRAS[provider]}]" if provider in _EXTRAS else f"pydantic-ai-slim[{provider}]"
        )
        raise MissingExtraError(
            f"agent_config.model: {full!r} needs a library that is not installed: pip install {package}"
        ) from error
    except (exceptions.UserError, ValueError) as error:
        raise ConfigurationError(f"agent_config.model: {full!r}: {error}") from error


def orbiter_error(error: Exception) -> OrbiterError | None:
    """Return the error of ours that says what becomes of the task, or ``None``: an error like any other, retried."""
    if isinstance(error, exceptions.UserError):
        return ConfigurationError(f"agent_config: {error}")
    if isinstance(error, exceptions.ModelContextWindowExceededError):
        return ConfigurationError(f"context too long for the model: {error}")
    status = getattr(error, "status_code", None) if isinstance(error, exceptions.ModelAPIError) else None
    rate_limited = isinstance(error, exceptions.ModelRateLimitError) or status == _TOO_MANY_REQUESTS
    if isinstance(error, exceptions.ModelAPIError) and rate_limited:
        return TransientError(str(error), retry_after=error.retry_after)
    # By name as well: these classes are younger than the oldest pydantic-ai that we accept.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if status in _UNAUTHENTICATED or "ModelAuthenticationError" in kinds:
        return ConfigurationError(f"the model provider refused the credentials of this worker: {error}")
    if status == _UNKNOWN or "ModelNotFoundError" in kinds:
        return ConfigurationError(f"agent_config.model: the provider does not know it: {error}")
    return None
