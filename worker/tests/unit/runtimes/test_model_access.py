"""Which model a name stands for, and what a provider's failure makes of the task."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata

import pytest
from pydantic_ai import exceptions

from orbiter.distributed.errors import ConfigurationError, MissingExtraError, TransientError, how_to_install
from orbiter.distributed.runtimes import model_access
from tests.unit.runtimes.support import agent, execute, failing


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("groq:x", how_to_install("groq")),
        ("mistral:x", how_to_install("mistral")),
        ("bedrock:x", how_to_install("bedrock")),
        ("google:x", how_to_install("google")),
        ("google-cloud:x", how_to_install("google")),
        ("google-gla:x", how_to_install("google")),
        ("google-vertex:x", how_to_install("google")),
        ("gemini:x", how_to_install("google")),
        ("vertex:x", how_to_install("google")),
        ("gateway/groq:x", how_to_install("groq")),
        ("cohere:x", "pip install 'pydantic-ai-slim[cohere]'"),
    ],
)
async def test_a_provider_without_its_library_names_the_extra(name, package):
    """For real: none of these libraries is installed here."""
    with pytest.raises(MissingExtraError) as caught:
        await execute(agent(model=name))
    assert str(caught.value).endswith(f"needs a library that is not installed: {package}")


@pytest.mark.parametrize("name", ["x", "openai:x", "openai-chat:x", "openai-responses:x", "azure:x"])
@pytest.mark.parametrize("base_url", ["", "http://127.0.0.1:1/v1"])
async def test_without_openais_library_every_way_to_name_it_names_the_extra(name, base_url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    for module in [module for module in sys.modules if module.partition(".")[0] == "openai" or "openai" in module]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=f"{re.escape(how_to_install('openai'))}$"):
        await execute(agent(model=name))


def test_every_extra_that_a_message_can_name_exists():
    declared = set(metadata("orbiter-distributed").get_all("Provides-Extra"))
    assert {"openai", "anthropic", "google", "groq", "mistral", "bedrock", "all"} <= declared
    assert declared >= model_access._EXTRAS


@pytest.mark.parametrize(("name", "variable"), [("gpt-4o", "OPENAI_API_KEY"), ("anthropic:x", "ANTHROPIC_API_KEY")])
async def test_credentials_that_are_not_set_are_named(name, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match=rf"agent_config\.model: .*{variable}"):
        await execute(agent(model=name))


@pytest.mark.parametrize(
    ("name", "base_url", "kind"),
    [
        ("openai:x", "", "OpenAIResponsesModel"),
        ("openai:x", "http://127.0.0.1:1/v1", "OpenAIChatModel"),
        ("openai-responses:x", "http://127.0.0.1:1/v1", "OpenAIResponsesModel"),
        ("openai-chat:x", "", "OpenAIChatModel"),
    ],
)
def test_a_base_url_of_ones_own_means_chat_completions(name, base_url, kind, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    assert type(model_access.resolve_model(name)).__name__ == kind


async def test_an_unknown_provider_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match=r"agent_config\.model: 'nobody:x'"):
        await execute(agent(model="nobody:x"))


def http(status, category=None, **headers):
    return exceptions.ModelHTTPError.for_category(category, status_code=status, model_name="m", headers=headers)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ModelHTTPError(401, "m"),
        exceptions.ModelHTTPError(403, "m"),
        exceptions.ModelHTTPError(404, "m"),
        http(400, exceptions.ModelContextWindowExceededError),
        exceptions.ModelAuthenticationError("m", "no key"),
        exceptions.UserError("set the OPENAI_API_KEY"),
        http(400, exceptions.ModelRequestRejectedError),
        http(429, exceptions.ModelQuotaExceededError),
    ],
)
async def test_what_another_run_cannot_mend_is_a_configuration_error(error):
    with pytest.raises(ConfigurationError):
        await execute(agent(), model=failing(error))


async def test_a_rate_limit_is_transient_and_tells_how_long_to_wait():
    for error in (
        http(429, exceptions.ModelRateLimitError, **{"Retry-After": "17"}),
        exceptions.ModelHTTPError(429, "m", headers={"retry-after": "17"}),
    ):
        with pytest.raises(TransientError) as caught:
            await execute(agent(), model=failing(error))
        assert caught.value.retry_after == 17


async def test_an_overloaded_provider_that_says_when_to_come_back_is_waited_for():
    with pytest.raises(TransientError) as caught:
        await execute(agent(), model=failing(http(503, exceptions.ModelOverloadedError, **{"Retry-After": "17"})))
    assert caught.value.retry_after == 17


async def test_other_failures_of_a_provider_stay_what_they_are():
    with pytest.raises(exceptions.ModelHTTPError):
        await execute(agent(), model=failing(http(500, exceptions.ModelServerError)))
