"""What the pages tell a user to type works, typed as it stands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
# Blocks marked `console` are for other machines, or for people; those marked `bash` run in a demo's checkout.
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_commands_of_the_docs_run(block, inventory, fleet):
    environment = os.environ | {"ANSIBLE_INVENTORY": inventory, "ORBITER_REDIS_URL": fleet.redis_url}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block],
        cwd=CHECKOUT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_the_pages_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_example_inventory_passes_the_checks():
    """The hosts of the example do not exist: reaching for them is as far as it can go."""
    names = ("REDIS", "REDIS_CLIENT", "REDIS_MONITOR")
    secrets = {f"ORBITER_{name}_PASSWORD": f"a long password of {name}" for name in names}
    environment = os.environ | secrets | {"ANSIBLE_SSH_RETRIES": "0"}
    command = ["ansible-playbook", "--inventory", "inventories/example", "site.yml"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 4, done.stdout + done.stderr  # unreachable, not failed
    assert "PLAY [Look at the hosts]" in done.stdout
