"""Which task a payload names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.distributed.broker.payloads import named_task_id, plain_task_id
from orbiter.distributed.models import TaskPayload
from tests.payload_texts import ODD_PAYLOADS


@pytest.mark.parametrize(("text", "plain", "named"), ODD_PAYLOADS)
def test_task_id_is_read_by_its_form_or_by_a_json_parser(text: str, plain: str, named: str) -> None:
    assert (plain_task_id(text), named_task_id(text)) == (plain, named)


@given(
    st.from_regex(r"[A-Za-z0-9_.:@-]{1,200}", fullmatch=True).filter(
        lambda text: text not in {"index", "by_time", "ended"}
    )
)
def test_payloads_that_we_write_name_their_task_plainly(task_id: str) -> None:
    text = TaskPayload(task_id=task_id).to_json()
    assert plain_task_id(text) == named_task_id(text) == task_id


@given(st.text(max_size=20), st.permutations(["task_id", "input", "model"]))
def test_plain_id_of_a_payload_is_the_one_that_a_parser_finds(task_id: str, order: list[str]) -> None:
    text = json.dumps({key: task_id if key == "task_id" else "x" for key in order})
    assert plain_task_id(text) in {"", named_task_id(text)}
