"""A fleet of real processes under faults that are drawn from a seed: nothing is lost, stuck, doubled or charged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos import report
from chaos.checker import judge
from chaos.play import Play

# Others, or longer: CHAOS_SEEDS=1,2 CHAOS_SECONDS=120; `make chaos` replays one and prints a table.
SEEDS = os.environ.get("CHAOS_SEEDS", "1").split(",")
SECONDS = float(os.environ.get("CHAOS_SECONDS", "15"))


@pytest.mark.alone
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_must_hold_holds_under_faults(seed: str, tmp_path: Path) -> None:
    verdict = judge(await Play(int(seed), SECONDS, tmp_path / seed).run())
    print(f"{report.text([verdict])}\nlogs and history: {tmp_path / seed}")
    assert verdict.findings == []
    assert verdict.counts["accepted"] == verdict.counts["submitted"] > SECONDS
    assert verdict.counts["faults"] > 0
