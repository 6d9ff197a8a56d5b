"""Which models a task may use: by pattern, by the keys in the environment, and never one with an address in it."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic_ai.models import KnownModelName

from orbiter.distributed.errors import ConfigurationError, ModelRefusedError
from orbiter.distributed.models import TaskPayload
from orbiter.distributed.runtimes.agent import AgentRuntime
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.runtimes.model_guard import KEYS, ModelGuard
from tests.unit.runtimes.support import Run, agent

ADDRESSES = [
    "huggingface:http://127.0.0.1:9/x",
    "huggingface:https://example.net",
    "huggingface://example.net/x",
    "http://127.0.0.1:9/x",
    "//example.net/x",
    "openai:/v1/files",
    "google:../../upload",
    "google:models/../files",
    "google:x/..",
    "..",
    "openai:gpt\n4",
    "openai:gpt 4",
    "openai:gpt?x=1",
    "openai:gpt#x",
    "openai:gpt%2e",
    "openai:gpt\\x",
    "openai:gpt\u0430",
    "openai:user@evil.example\x00",
    "x" * 300,
    "",
]
# From pydantic-ai's list and providers' own pages.
NAMES = [
    "test",
    "gpt-4o",
    "openai:ft:gpt-4o-mini:acme:bot:8abc",
    "openai:gpt-4.1",
    "bedrock:us.anthropic.claude-3-5-sonnet-20241022-v2:0",
    "bedrock:arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
    "huggingface:meta-llama/Llama-3.3-70B-Instruct:novita",
    "fireworks:accounts/fireworks/models/qwq-32b",
    "google-cloud:claude-sonnet-4@20250514",
    "gateway/openai:gpt-5",
    "openrouter:google/gemini-2.5-flash:free",
    *get_args(KnownModelName.__value__),
]


def guard(*allow: str, **environ: str) -> ModelGuard:
    return ModelGuard(allow or ("default",), environ=environ)


def allowed(models: ModelGuard, *names: str) -> list[bool]:
    found = []
    for name in names:
        try:
            models.check(name)
        except ModelRefusedError:
            found.append(False)
        else:
            found.append(True)
    return found


@pytest.mark.parametrize("name", ADDRESSES)
def test_name_that_is_more_than_a_name_is_refused_whatever_is_allowed(name):
    with pytest.raises(ModelRefusedError) as caught:
        guard("*", HF_TOKEN="x").check(name)
    assert "provider:name" in str(caught.value)
    assert "--allow-models" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", NAMES)
def test_name_as_providers_have_them_is_one(name):
    guard("*").check(name)


def test_default_allows_the_test_model_and_providers_whose_key_is_given():
    names = ("test", "openai:gpt-5", "gpt-4o", "openai-chat:x", "anthropic:claude", "google-gla:x", "bedrock:x")
    assert allowed(guard(), *names) == [True, False, False, False, False, False, False]
    assert allowed(guard(OPENAI_API_KEY="k"), *names) == [True, True, True, True, False, False, False]
    assert allowed(guard(OPENAI_BASE_URL="http://vllm/v1"), "openai:x") == [True]
    assert allowed(guard(GEMINI_API_KEY="k", AWS_PROFILE="p"), *names)[4:] == [False, True, True]
    assert allowed(guard(OPENAI_API_KEY=""), "openai:x") == [False]
    assert allowed(guard(PYDANTIC_AI_GATEWAY_API_KEY="k"), "gateway/groq:x", "groq:x") == [True, False]


def test_pattern_allows_what_it_matches_and_nothing_else():
    models = guard("openai:gpt-5*", "gemini:*", OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k")
    names = ("openai:gpt-5-mini", "gpt-5", "openai-responses:gpt-5", "openai:gpt-4o", "anthropic:x", "test", "google:x")
    assert allowed(models, *names) == [True, True, True, False, False, False, True]
    assert allowed(guard("openai-chat:*"), "openai-chat:x", "openai:x") == [True, False]
    assert allowed(guard("default", "ollama:*"), "test", "ollama:x", "vllm:x") == [True, True, False]
    assert allowed(ModelGuard((), environ={"OPENAI_API_KEY": "k"}), "test", "openai:x") == [False, False]


def test_refusal_names_the_model_what_is_allowed_and_how_to_allow_it():
    with pytest.raises(ModelRefusedError) as caught:
        guard(OPENAI_API_KEY="k").check("anthropic:claude-x")
    for word in ("'anthropic:claude-x'", "test, openai:*", "ANTHROPIC_API_KEY", "--allow-models anthropic:*"):
        assert word in str(caught.value)
    assert isinstance(caught.value, ConfigurationError)


def test_every_provider_that_pydantic_ai_knows_has_its_key_here():
    """A new one is refused until somebody has looked where its key comes from."""
    providers = {name.partition(":")[0] for name in get_args(KnownModelName.__value__) if ":" in name}
    own = {provider for provider in providers if not provider.startswith("gateway/")}
    # These log in by a file of their own, or are another one's second name.
    without = {"openai-codex", "openai-chatgpt", "openai-decisions", "google-decisions", "openai-chat"}
    without |= {"openai-responses", "azure-responses", "google-gla", "google-vertex"}
    assert own - set(KEYS) <= without, own - set(KEYS)


LEAD = {"name": "lead", "model": "test"}
OTHER = {"name": "other", "model": "huggingface:http://127.0.0.1:9/x"}


@pytest.mark.parametrize(
    "config",
    [
        OTHER,
        LEAD | {"handoffs": [OTHER]},
        {"agents": [LEAD, OTHER]},
        {"agents": [LEAD, OTHER], "mode": "team"},
        {"agents": [LEAD, OTHER], "mode": "handoff"},
        {"agents": [LEAD, OTHER], "flow": "lead"},
    ],
)
async def test_every_agent_s_model_is_checked_before_the_first_one_runs(config):
    run = Run(config, detailed=True)
    runtime = AgentRuntime(config, ImportGuard([], models=guard()))
    with pytest.raises(ModelRefusedError):
        await runtime.run(run.context)
    assert run.events == []


async def test_model_of_the_task_stands_in_for_those_of_its_agents():
    config = agent(model="openai:gpt-4o")
    runtime = AgentRuntime(config, ImportGuard([], models=guard()))
    assert (await runtime.run(Run(config, model="test").context))["output"]
    for model in ("openai:gpt-4o", "huggingface:http://127.0.0.1:9/x", "x" * 900_000):
        with pytest.raises(ModelRefusedError):
            await runtime.run(Run(config, model=model).context)
    assert TaskPayload(model="").model == ""
