"""What a role's documentation says of its variables is what its defaults are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROLES = sorted(path.parent for path in (Path(__file__).parents[3] / "roles").glob("*/defaults"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_documented_with_its_default(role):
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    documented = {name: option.get("default") for name, option in options.items() if not option.get("required")}
    assert documented == defaults


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_carries_the_name_of_its_role(role):
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    assert [name for name in defaults if not name.startswith(f"{role.name}_")] == []
