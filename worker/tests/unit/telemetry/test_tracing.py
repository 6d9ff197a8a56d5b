"""Spans, where OpenTelemetry is set up."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from orbiter.distributed.telemetry import tracing


def test_a_module_that_another_thread_imports_still_has_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    assert not tracing.active()
