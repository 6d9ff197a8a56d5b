"""Short histories of script calls, drawn from a seed, do what a small model says: see :mod:`chaos.machine`."""

from __future__ import annotations

import os
from pathlib import Path

from chaos.machine import run_machine

from tests.servers import plain_server

# More of them: CHAOS_EXAMPLES=5000 CHAOS_SEEDS=7.
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES", "60"))
SEED = int(os.environ.get("CHAOS_SEEDS", "1").partition(",")[0])


def test_any_history_of_calls_does_what_the_model_says(tmp_path: Path) -> None:
    with plain_server(tmp_path) as server:
        run_machine(server.port, seed=SEED, examples=EXAMPLES)
