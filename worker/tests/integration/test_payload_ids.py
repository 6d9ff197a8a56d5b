"""The scripts and Python read the same task id from a payload, however it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from orbiter.distributed.broker import scripts
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.payloads import named_task_id, plain_task_id
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import TaskPayload
from tests import keys
from tests.payload_texts import ODD_PAYLOADS

QUEUE = "orbiter:tasks"
ODD = [
    '{"input":"x","task_id":"odd"}',
    ' { "task_id" :\n"odd" }',
    r'{"task_id":"od\u0064"}',
    r'{"task\u005fid":"odd"}',
]
_LIB = Path(scripts.__file__).parent / "lua" / "lib"
_BOTH = "".join((_LIB / f"{part}.lua").read_text() for part in ("plain_task_id", "task_id_of"))
_READ = f"#!lua flags=no-writes\n{_BOTH}return {{ plain_task_id(ARGV[1]) or '', task_id_of(ARGV[1]) or '' }}"

IDS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_.:@-]{1,201}", fullmatch=True), st.sampled_from(["index", "by_time", "ended"]), st.text()
)
PAYLOADS = st.one_of(
    st.builds(lambda task_id: TaskPayload.model_construct(task_id=task_id).to_json(), IDS),
    st.builds(
        lambda task_id, order, space: json.dumps(
            {key: task_id if key == "task_id" else "x" for key in order}, separators=(",", space)
        ),
        IDS,
        st.permutations(["task_id", "input", "model"]),
        st.sampled_from([":", ": ", " : ", ":  "]),
    ),
    st.text(alphabet=st.sampled_from(' {}"task_id:\\u0041index'), max_size=40),
    st.builds(lambda text, cut: text[:cut], st.just('{"task_id":"t1","input":"x"}'), st.integers(0, 28)),
)


def read_by_scripts(redis_url: str, text: str) -> tuple[str, str]:
    """Return the plain task id of a payload, and the one that it names, as the scripts read them."""
    with SyncRedis.from_url(redis_url, decode_responses=True) as client:
        plain, named = client.eval(_READ, 0, text.encode("utf-8", "replace"))  # type: ignore[misc]
    return plain, named


@pytest.mark.parametrize(("text", "plain"), [(text, plain) for text, plain, _ in ODD_PAYLOADS])
def test_scripts_read_a_plain_id_by_the_contract(redis_url: str, text: str, plain: str) -> None:
    assert read_by_scripts(redis_url, text)[0] == plain


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=PAYLOADS)
def test_scripts_and_python_find_the_same_plain_id(redis_url: str, text: str) -> None:
    plain, named = read_by_scripts(redis_url, text)
    assert plain == plain_task_id(text)
    if plain or (named and named_task_id(text)):
        assert named in {plain, named_task_id(text)}


@pytest.mark.parametrize("text", ODD)
async def test_task_with_its_id_elsewhere_is_claimed_and_started_by_its_reader(
    redis_url: str, redis_client: Redis, text: str
) -> None:
    broker = TaskBroker(redis_url, client=redis_client)
    await broker.connect()
    await broker.ensure_group()
    await broker.submit(TaskPayload(task_id="odd"))
    await redis_client.xtrim(QUEUE, maxlen=0, approximate=False)
    entry_id = await redis_client.xadd(QUEUE, {"payload": text})
    # The queue's search for a task finds it by its id,
    assert await Housekeeping(broker).walk("0-0", count=10, max_bytes=1000) == ("", [(entry_id, "odd")])
    # whoever claims it learns that it is still to be read,
    [(entry, begun)] = await broker.fetch("w1", 1)
    assert (entry.entry_id, begun.verdict) == (entry_id, "read")
    # and starts it by what a JSON parser finds.
    [started] = await broker.start("w1", [(entry, TaskPayload.from_fields(entry.fields))])
    assert (started.verdict, started.attempt) == ("run", 1)
    assert await redis_client.hget(keys.task("odd"), "worker_id") == "w1"
