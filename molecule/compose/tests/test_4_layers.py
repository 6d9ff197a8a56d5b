"""What a release adds to a registry and to hosts that have the one before it."""

from __future__ import annotations

import json

import pytest

from fleet import VERSION

pytestmark = pytest.mark.nightly

MEGABYTE = 1_000_000


def test_new_release_with_the_same_dependencies_is_a_layer_of_its_own_wheels(on):
    builder = on("worker1")

    def layers(version):
        name = builder.check_output(f"docker image ls --format '{{{{ .ID }}}}' '*/*/orbiter-worker:{version}-*'")
        rows = builder.check_output(f"docker history --no-trunc --human=false --format json {name.split()[0]}")
        found = [json.loads(row) for row in rows.splitlines()]
        return {(row["ID"], row["CreatedBy"]): int(row["Size"]) for row in found}

    old, new = layers(VERSION), layers("99.0.1")
    assert sum(size for layer, size in new.items() if layer not in old) <= 5 * MEGABYTE
    assert sum(new.values()) >= 50 * MEGABYTE  # the rest
