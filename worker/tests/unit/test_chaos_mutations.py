"""Each fault that is put into the code to see it found has its place there still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chaos.mutations import MUTATIONS, Mutation, MutationError, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_one_place_that_it_names(mutation: Mutation, tmp_path: Path) -> None:
    text = (mutated(mutation, tmp_path) / "orbiter" / "distributed" / mutation.file).read_text()
    assert text.count(mutation.before) == mutation.after.count(mutation.before)
    assert mutation.after in text


def test_a_mutation_whose_text_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(MutationError, match="0 times"):
        mutated(replace(MUTATIONS[0], before="no such text"), tmp_path)
