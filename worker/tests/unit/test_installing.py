"""What is missing is to be installed from where the package itself came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import environment

ASKS = "from orbiter.distributed.errors import how_to_install; print(how_to_install('openai'))"


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (None, "pip install 'orbiter-distributed[openai]'"),
        ({"url": "file:///src/my%20worker", "dir_info": {}}, "pip install '/src/my worker[openai]'"),
        (
            {"url": "file:///src/worker", "dir_info": {"editable": True}},
            "pip install --editable '/src/worker[openai]'",
        ),
        (
            {"url": "file:///dist/orbiter_distributed-1-py3-none-any.whl", "archive_info": {}},
            "pip install 'orbiter-distributed[openai] @ file:///dist/orbiter_distributed-1-py3-none-any.whl'",
        ),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(origin: Any, told: str, tmp_path: Path) -> None:
    info = tmp_path / "orbiter_distributed-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orbiter-distributed\nVersion: 1\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {ASKS}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert said.stdout == f"{told}\n"


def test_on_a_host_of_the_fleet_the_inventory_says_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sbom.cdx.json").touch()
    code = f"import sys; sys.prefix = {str(tmp_path)!r}; {ASKS}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert "add openai to worker_extras" in said.stdout
