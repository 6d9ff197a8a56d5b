"""The metrics as Prometheus text, named as OpenTelemetry's rules for Prometheus name them.

So one rule fits both what is scraped from ``--health-port`` and what a collector was sent by OTLP.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orbiter.distributed.telemetry.instruments import Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orbiter.distributed.telemetry.instruments import Instrument
    from orbiter.distributed.telemetry.metrics import AnyInstrument

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_name(instrument: Instrument) -> str:
    """Return the name without what a histogram's samples add: unit and ``_total`` are part of it."""
    name = _word(instrument.name)
    name += {"s": "_seconds", "By": "_bytes"}.get(instrument.unit, "")
    return f"{name}_total" if instrument.kind == "counter" else name


def prometheus_text(instruments: Iterable[AnyInstrument]) -> str:
    """Return every value that the instruments hold now."""
    return "".join(f"{line}\n" for instrument in instruments for line in _lines(instrument))


def _lines(instrument: AnyInstrument) -> Iterator[str]:
    name = prometheus_name(instrument)
    samples = list(_samples(name, instrument))
    if samples:
        yield f"# HELP {name} {_escaped(instrument.description)}"
        yield f"# TYPE {name} {instrument.kind}"
        yield from samples


def _samples(name: str, instrument: AnyInstrument) -> Iterator[str]:
    if isinstance(instrument, Counter):
        for labels, value in sorted(instrument.values().items()):
            yield _sample(name, instrument.named(labels), value)
        return
    for labels, found in sorted(instrument.values().items(), key=lambda row: row[0]):
        named, below = instrument.named(labels), 0
        for bound, count in zip((*Histogram.bounds, "+Inf"), found.buckets, strict=True):
            below += count
            yield _sample(f"{name}_bucket", {**named, "le": bound if isinstance(bound, str) else f"{bound:g}"}, below)
        yield _sample(f"{name}_sum", named, found.total)
        yield _sample(f"{name}_count", named, found.count)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    text = ",".join(f'{_word(key)}="{_quoted(label)}"' for key, label in labels.items())
    number = f"{value:d}" if isinstance(value, int) else repr(value)
    return f"{name}{{{text}}} {number}" if text else f"{name} {number}"


def _word(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
