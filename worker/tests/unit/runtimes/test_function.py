from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from orbiter.distributed.errors import ConfigurationError, ImportRefusedError
from orbiter.distributed.models import TextEvent
from orbiter.distributed.runtimes.function import CallableRuntime
from tests.support import wait_until
from tests.unit.runtimes import targets
from tests.unit.runtimes.support import GUARD, HERE, Run


@pytest.fixture(autouse=True)
def fresh():
    targets.SEEN.clear()


async def call(target, text="", **config):
    config = {"runtime": "callable", "target": f"{HERE}:{target}", **config}
    run = Run(config, input=text)
    return await CallableRuntime(config, GUARD).run(run.context), run


async def test_strings_of_an_async_generator_are_text_of_the_named_agent():
    result, run = await call("words", "a b", name="speaker")
    assert run.events[:2] == [
        TextEvent(text="a", agent_name="speaker"),
        TextEvent(text="b", agent_name="speaker"),
    ]
    assert run.kinds() == ["text", "tool_call"]
    assert result == {"output": "ab"}


async def test_a_coroutine_gets_input_options_and_attempt():
    result, _ = await call("answer", "you", options={"greeting": "hi"})
    assert result == {"output": "you hi 2"}


@pytest.mark.parametrize(("name", "output"), [("greeter", "hello x"), ("Greeter.shout", "X")])
async def test_any_callable_will_do(name, output):
    result, _ = await call(name, "x")
    assert result == {"output": output}


async def test_plain_function_runs_in_a_thread_and_returns_its_dict_as_result():
    result, run = await call("in_which_thread")
    assert result == {"output": "done", "main": False, "n": 1}
    assert run.text == "from a thread"


async def test_other_values_are_given_as_json_and_as_data():
    result, _ = await call("numbers")
    assert result == {"output": '{"a": 1}', "data": {"a": 1}}


async def test_none_means_the_text_emitted():
    result, _ = await call("nothing")
    assert result == {"output": "one two"}


async def test_a_plain_generator_emits_and_returns():
    result, run = await call("generator")
    assert (result, run.text) == ({"output": "returned"}, "ab")


async def test_a_final_status_is_left_to_the_worker():
    result, run = await call("ends_the_stream")
    assert run.kinds() == ["text"]
    assert result == {"output": "before after"}


async def test_what_is_neither_event_nor_string_is_an_error():
    with pytest.raises(TypeError, match="int"):
        await call("yields_a_number")
    assert targets.SEEN == {"cleaned up": True}


async def test_a_result_that_is_not_json_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="not_json returned what is not JSON"):
        await call("not_json")


@pytest.mark.parametrize("name", ["leaves", "leaves_the_loop", "stops_iterating"])
async def test_code_that_exits_fails_its_task_and_not_the_worker(name):
    with pytest.raises(RuntimeError, match="raised S"):
        await asyncio.wait_for(call(name), 60)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({}, ConfigurationError, "target: Field required"),
        ({"target": 3}, ConfigurationError, "target: Input should be a valid string"),
        ({"target": f"{HERE}:words", "options": []}, ConfigurationError, "options: Input should be a valid dict"),
        ({"target": "os:getcwd"}, ImportRefusedError, "os:getcwd"),
        ({"target": f"{HERE}:SEEN.clear"}, ImportRefusedError, "builtins"),
        ({"target": f"{HERE}:no_arguments"}, ConfigurationError, "must take one argument"),
    ],
)
def test_a_wrong_configuration_names_what_is_wrong(config, error, message):
    with pytest.raises(error, match=message):
        CallableRuntime({"runtime": "callable", **config}, GUARD)


async def test_cancelling_a_generator_runs_its_cleanup_at_once():
    run = Run(input="")
    task = asyncio.create_task(CallableRuntime({"target": f"{HERE}:with_cleanup"}, GUARD).run(run.context))
    await wait_until(lambda: run.text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert targets.SEEN == {"cleaned up": True}
    assert run.context.cancelled


async def test_cancelling_a_thread_abandons_it_and_drops_what_it_emits_later():
    run = Run(input="")
    task = asyncio.create_task(CallableRuntime({"target": f"{HERE}:until_cancelled"}, GUARD).run(run.context))
    await wait_until(lambda: targets.SEEN)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 40
    await wait_until(lambda: "cancelled" in targets.SEEN)
    assert targets.SEEN["cancelled"] is True
    assert run.events == []


def test_an_abandoned_thread_does_not_keep_the_process_from_ending():
    code = """
import asyncio, time
from orbiter.distributed.runtimes.threads import in_thread
async def main():
    try:
        await asyncio.wait_for(in_thread(lambda: time.sleep(120)), 0.1)
    except TimeoutError:
        pass
asyncio.run(main())
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)
    assert time.monotonic() - started < 60
