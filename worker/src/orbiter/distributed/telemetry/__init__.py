"""Telemetry: instruments, Prometheus text, OpenTelemetry export and spans. It is told values."""

from orbiter.distributed.telemetry import otel  # noqa: F401 - registers itself with metrics
