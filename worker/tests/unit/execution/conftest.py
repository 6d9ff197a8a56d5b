"""These tests run in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.virtual_time import loop_factories


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return loop_factories()
