"""What models a task may use: those that the operator allowed, by default those whose key the operator gave.

Whoever can write to Redis names a model; this is the one door through which such a name reaches a provider's library.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orbiter.distributed.errors import ModelRefusedError
from orbiter.distributed.names import InvalidNameError, check_model_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT, EVERYTHING = "default", "*"
# The model of pydantic-ai that answers by itself, for tests: no network, no key.
TEST = "test"
# What 0.1 and earlier releases of pydantic-ai call providers that have another name now.
_RENAMED = {"gemini": "google", "google-gla": "google", "google-vertex": "google-cloud", "vertex": "google-cloud"}
# Providers that are another one, spoken to in another way.
_SAME = {"openai-chat": "openai", "openai-responses": "openai", "azure-responses": "azure"}
# By which variables pydantic-ai, or the provider's library, is given the key (or the server) of a provider.
KEYS: dict[str, tuple[str, ...]] = {
    "alibaba": ("ALIBABA_API_KEY", "DASHSCOPE_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_OPENAI_API_KEY",),
    "bedrock": ("AWS_ACCESS_KEY_ID", "AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "bedrock-mantle": ("AWS_BEARER_TOKEN_BEDROCK",),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("CO_API_KEY",),
    "crusoe": ("CRUSOE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "gateway/*": ("PYDANTIC_AI_GATEWAY_API_KEY", "PAIG_API_KEY"),
    "github": ("GITHUB_API_KEY",),
    "github-copilot": ("GITHUB_COPILOT_API_KEY", "GITHUB_COPILOT_API_TOKEN", "COPILOT_GITHUB_TOKEN"),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "google-cloud": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "heroku": ("HEROKU_INFERENCE_KEY",),
    "huggingface": ("HF_TOKEN",),
    "meta": ("META_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshotai": ("MOONSHOTAI_API_KEY",),
    "nebius": ("NEBIUS_API_KEY",),
    "ollama": ("OLLAMA_BASE_URL",),
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openrouter": ("OPENROUTER_API_KEY",),
    "ovhcloud": ("OVHCLOUD_API_KEY",),
    "sambanova": ("SAMBANOVA_API_KEY",),
    "snowflake": ("SNOWFLAKE_TOKEN",),
    "system-one": ("SYSTEM_ONE_BASE_URL",),
    "together": ("TOGETHER_API_KEY",),
    "typesafe": ("TYPESAFE_API_KEY",),
    "vercel": ("VERCEL_AI_GATEWAY_API_KEY", "VERCEL_OIDC_TOKEN"),
    "vllm": ("VLLM_BASE_URL",),
    "xai": ("XAI_API_KEY",),
    "zai": ("ZAI_API_KEY",),
}


# A task may name any number of models.
_MOST_KNOWN = 1000


def full_name(name: str) -> str:
    """Return the name with its provider: ``gpt-4o`` is OpenAI's, ``test`` is nobody's."""
    if name == TEST:
        return name
    provider, colon, model = name.partition(":")
    return f"{_RENAMED.get(provider, provider)}:{model}" if colon else f"openai:{name}"


class ModelGuard:
    """Refuses models that the operator has not allowed, and names that are more than a name.

    Args:
        allow: Patterns such as ``openai:gpt-5*``. ``default`` stands for ``test`` and every provider whose key is in
            the environment, ``*`` for all models.
        environ: That environment; this process's own by default. It is read here, once.

    Attributes:
        patterns: The patterns, ``default`` as what it stands for.
    """

    def __init__(self, allow: Sequence[str] = (DEFAULT,), *, environ: Mapping[str, str] = os.environ) -> None:
        self.patterns = tuple(dict.fromkeys(_spelled_out(allow, environ)))
        self._by_default = DEFAULT in allow
        self._allowed: set[str] = set()

    def check(self, name: str) -> None:
        """Pass a model that is allowed, by whatever name a task has for it.

        Raises:
            ModelRefusedError: It is not allowed, or the name holds an address or a path.
        """
        if name in self._allowed:
            return
        try:
            full = full_name(check_model_name(name))
        except InvalidNameError as error:
            text = f"model refused: {error}; no --allow-models (ORBITER_ALLOW_MODELS) allows it"
            raise ModelRefusedError(text) from None
        if not any(fnmatchcase(each, pattern) for each in (full, _same(full)) for pattern in self.patterns):
            raise ModelRefusedError(self._why(name, full))
        if len(self._allowed) < _MOST_KNOWN:
            self._allowed.add(name)

    def _why(self, name: str, full: str) -> str:
        provider = _same(full).partition(":")[0]
        shown = provider if provider in KEYS or provider == TEST else "PROVIDER"
        variables = " or ".join(KEYS.get(provider, ()))
        key = f"give its key to the worker's environment ({variables}), or " if self._by_default and variables else ""
        pattern = TEST if full == TEST else f"{shown}:*"
        return (
            f"model {name!r} refused: this worker allows {', '.join(self.patterns) or 'none'}; to allow it, {key}start"
            f" the worker with --allow-models PATTERN, such as --allow-models {pattern} (ORBITER_ALLOW_MODELS)"
        )


def _spelled_out(allow: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    for pattern in allow:
        if pattern == DEFAULT:
            yield TEST
            for provider, variables in KEYS.items():
                if any(environ.get(variable) for variable in variables):
                    yield f"{provider}:*"
        else:
            yield pattern if pattern == EVERYTHING else full_name(pattern)


def _same(full: str) -> str:
    provider, colon, model = full.partition(":")
    return f"{_SAME.get(provider, provider)}{colon}{model}"
