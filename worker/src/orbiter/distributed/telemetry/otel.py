"""OpenTelemetry, where it is installed: who reads our metrics, and how a worker sends them and its spans by OTLP.

Counters and gauges are observed: nothing happens to them between two readings. Histograms cannot be observed through
the API. What the worker sets up by itself adds them to what it exports (a value recorded by the SDK costs more than the
rest of a task's bookkeeping); to a provider that the application has set up they are recorded one by one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from orbiter.distributed.errors import how_to_install
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.instruments import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

SCOPE = "orbiter.distributed"
# An exporter that cannot reach its collector must not hold up the end of a worker.
SHUTDOWN_WITHIN = 1.0
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SINCE = time.time_ns()


def offer_instruments(*, histograms: bool = True) -> None:
    """Let the application's meter provider, set now or later, read our instruments."""
    from opentelemetry.metrics import get_meter  # noqa: PLC0415 - only where it is wanted

    meter = get_meter(SCOPE, version("orbiter-distributed"))
    for instrument in metrics.INSTRUMENTS:
        about = {"unit": instrument.unit, "description": instrument.description}
        if isinstance(instrument, Gauge):
            meter.create_observable_gauge(instrument.name, [_observer(instrument)], **about)
        elif isinstance(instrument, Counter):
            meter.create_observable_counter(instrument.name, [_observer(instrument)], **about)
        elif histograms:
            bounds = Histogram.bounds
            recorder = meter.create_histogram(instrument.name, explicit_bucket_boundaries_advisory=bounds, **about)
            instrument.share(recorder)


_offered = False


def offer(*, histograms: bool = True) -> None:
    """Let OpenTelemetry read what is recorded here, once, if this process has it loaded."""
    global _offered  # noqa: PLW0603 - once a process
    if not _offered and "opentelemetry.metrics" in sys.modules:
        _offered = True
        offer_instruments(histograms=histograms)


metrics.register_exporter(offer)


def _observer(instrument: Counter) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation  # noqa: PLC0415

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, instrument.named(labels)) for labels, value in instrument.values().items()]

    return observe


def _asked_for(signal: str) -> bool:
    """Tell whether OpenTelemetry's own variables ask for this signal: ``TRACES`` or ``METRICS``."""
    get = os.environ.get
    if get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp":
        return False
    return bool(get(_ENDPOINT) or get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


@contextmanager
def exporting(worker_id: str, *, ours: bool = True) -> Iterator[None]:
    """Send metrics and spans by OTLP meanwhile, if OpenTelemetry's variables name where to.

    Providers that the application has set up are left alone.

    Args:
        worker_id: Who sends.
        ours: Whether our own instruments are sent, or only those of user code.
    """
    global _offered  # noqa: PLW0603 - once a process
    _offered = _offered or not ours
    enabled = [signal for signal in ("TRACES", "METRICS") if _asked_for(signal)]
    ends: list[Callable[[], object]] = []
    if enabled:
        try:
            ends = _set_up(worker_id, enabled)
        except ImportError as error:
            logger.warning(
                "%s is set, but nothing is sent: %s is missing; %s",
                _ENDPOINT,
                error.name,
                how_to_install("otel"),
            )
    offer()
    try:
        yield
    finally:
        _end(ends)


def _set_up(worker_id: str, enabled: list[str]) -> list[Callable[[], object]]:
    from opentelemetry import metrics as otel_metrics  # noqa: PLC0415 - only a worker that sends pays for the SDK
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = _resource(worker_id)
    ends: list[Callable[[], object]] = []
    if "METRICS" in enabled and not isinstance(otel_metrics.get_meter_provider(), MeterProvider):
        reader = PeriodicExportingMetricReader(_metric_exporter())
        meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        otel_metrics.set_meter_provider(meters)
        offer(histograms=False)
        ends.append(meters.shutdown)
    if "TRACES" in enabled and not isinstance(trace.get_tracer_provider(), TracerProvider):
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracers)
        ends.append(tracers.shutdown)
    logger.info("sending %s by OTLP", " and ".join(enabled).lower())
    return ends


def _resource(worker_id: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415

    known = {
        "service.name": "orbiter-worker",
        "service.instance.id": worker_id,
        "service.version": version("orbiter-distributed"),
    }
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are the operator's words, and beat ours.
    return Resource.create({**known, **OTELResourceDetector().detect().attributes})


def _metric_exporter() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    class Exporter(OTLPMetricExporter):
        """Sends our histograms with the rest."""

        def export(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> Any:
            return super().export(_with_histograms(metrics_data), *args, **kwargs)

    return Exporter()


def _with_histograms(data: MetricsData) -> MetricsData:
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics  # noqa: PLC0415

    histograms = [found for found in metrics.INSTRUMENTS if isinstance(found, Histogram)]
    # One that was offered before is recorded by the SDK itself.
    ours = [_distribution(found) for found in histograms if not found.is_shared and found.values()]

    def grown(scope: ScopeMetrics) -> ScopeMetrics:
        # The gauges of a worker are always there. A scope of the same name beside theirs would replace it.
        if scope.scope.name != SCOPE:
            return scope
        return ScopeMetrics(scope.scope, [*scope.metrics, *ours], scope.schema_url)

    return MetricsData(
        [
            ResourceMetrics(row.resource, [grown(scope) for scope in row.scope_metrics], row.schema_url)
            for row in data.resource_metrics
        ]
    )


def _distribution(instrument: Histogram) -> Metric:
    from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
        AggregationTemporality,
        HistogramDataPoint,
        Metric,
    )
    from opentelemetry.sdk.metrics.export import Histogram as Exported  # noqa: PLC0415

    now = time.time_ns()
    points = [
        HistogramDataPoint(
            attributes=instrument.named(labels),
            start_time_unix_nano=_SINCE,
            time_unix_nano=now,
            count=found.count,
            sum=found.total,
            bucket_counts=found.buckets,
            explicit_bounds=instrument.bounds,
            min=None,  # type: ignore[arg-type] # not kept; the exporter leaves it out
            max=None,  # type: ignore[arg-type]
        )
        for labels, found in instrument.values().items()
    ]
    exported = Exported(points, AggregationTemporality.CUMULATIVE)
    return Metric(instrument.name, instrument.description, instrument.unit, exported)


def _end(ends: list[Callable[[], object]]) -> None:
    """Send what is left, for as long as that may take."""
    threads = [threading.Thread(target=end, name="orbiter-telemetry-end", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SHUTDOWN_WITHIN
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
