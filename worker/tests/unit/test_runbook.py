"""docs/runbook.md has an entry for each alert, and none for what is no alert."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orbiter.distributed.alerts.rules import RULES, AlertRule

PAGE = Path(__file__).parents[3] / "docs" / "runbook.md"
ENTRIES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def test_every_alert_has_an_entry_and_every_entry_an_alert() -> None:
    assert sorted(ENTRIES) == sorted(rule.title for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_entry_names_the_rule_its_severity_and_what_to_look_at_and_do(rule: AlertRule) -> None:
    entry = ENTRIES[rule.title]
    assert entry.lstrip().startswith(f"`{rule.name}`, {rule.severity}: ")
    assert "**Look at**" in entry
    # A heading's anchor, as GitHub makes it.
    assert rule.runbook_url.endswith("/docs/runbook.md#" + rule.title.lower().replace(" ", "-"))
    assert "**Do**" in entry or "| do |" in entry
