"""View: pages from templates. Whatever a template shows is inert, and no text of a task becomes a link."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from orbiter.distributed.inert import inert

if TYPE_CHECKING:
    from starlette.requests import Request

HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
# Characters of one text of a task that a page shows.
LONGEST_TEXT = 20_000
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
# From here on a rate has no fraction.
_WHOLE_FROM = 10
_CENT = Decimal("0.01")
_POWERS = ("B", "kB", "MB", "GB", "TB")


class View:
    """Makes pages.

    Args:
        shared: What every template knows.
    """

    def __init__(self, **shared: Any) -> None:
        self.files = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.suffix in _TYPES}
        self._digests = {name: hashlib.sha256(text).hexdigest()[:16] for name, text in self.files.items()}
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            # Whatever a template says, between its braces stands nothing that a browser or a reader could mistake.
            finalize=shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            shared, static=self._static, query=quote_query, limit_text=LONGEST_TEXT, live=False
        )
        self._templates.filters.update(
            iso=iso,
            exact=exact,
            ago=ago,
            span=span,
            size=size,
            count=count,
            pretty=pretty,
            share=share,
            rate=rate,
            dollars=dollars,
            date=date,
        )

    def text(self, template: str, **values: Any) -> str:
        """Return what a template makes of these values."""
        return self._templates.get_template(template).render(**values)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a whole page."""
        return HTMLResponse(self.text(template, request=request, **values), status_code=status)

    def file(self, name: str) -> Response | None:
        """Return a file that is shipped with the pages; its address changes when it does."""
        if name not in self.files:
            return None
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(self.files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    def _static(self, name: str) -> str:
        return f"/static/{name}?v={self._digests[name]}"


def shown(value: Any) -> Any:
    """Return a value as a page may show it: ``Markup`` as it is, text inert, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return inert(value, keep="\n\t")


def quote_query(**values: Any) -> str:
    """Return values as a query, without those that are empty."""
    pairs = ((name, _query_value(value)) for name, value in values.items() if value not in (None, ""))
    return "&".join(f"{name}={quote(text, safe='')}" for name, text in pairs)


def _query_value(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


def iso(moment: float) -> str:
    """Return epoch seconds as HTML's ``datetime``."""
    return _moment(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exact(moment: float) -> str:
    """Return epoch seconds for people."""
    return _moment(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def _moment(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(moment, 0.0), 253_402_300_799.0), UTC)


def ago(moment: float, now: float) -> str:
    """Return how long ago that was, or in what time it will be."""
    distance = now - moment
    if abs(distance) < 1:
        return "now"
    text = _whole(abs(distance))
    return f"{text} ago" if distance > 0 else f"in {text}"


def span(seconds: float | None) -> str:
    """Return a length of time in its largest unit."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return _whole(seconds)


def _whole(seconds: float) -> str:
    unit, name = next((row for row in _UNITS if seconds >= 2 * row[0]), _UNITS[-1])
    return f"{seconds / unit:.0f} {name}"


def size(number: float | None) -> str:
    """Return bytes in their largest unit."""
    if not number:
        return "–"
    power = min(int(math.log(number, 1000)), len(_POWERS) - 1)
    return f"{number / 1000**power:.3g} {_POWERS[power]}"


def count(number: float) -> str:
    """Return a number with its thousands apart. As markup: the space between them is none that anybody hides."""
    return Markup(f"{number:,.0f}".replace(",", "\u202f"))  # noqa: S704 - a number


def rate(number: float) -> str:
    """Return so many a minute."""
    return count(number) if number >= _WHOLE_FROM or number == int(number) else f"{number:.1f}"


def dollars(amount: Decimal) -> str:
    """Return an amount of US dollars; a small one with as many digits as tell it from nothing."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.2g}" if amount < _CENT else f"${amount:.3f}"


def date(moment: float) -> str:
    """Return the day of epoch seconds, UTC."""
    return _moment(moment).strftime("%Y-%m-%d")


def share(part: float, whole: float, width: float = 100) -> str:
    """Return a part of a width, for a bar of SVG."""
    return f"{min(1.0, part / whole) * width if whole else 0:.1f}"


def pretty(value: Any) -> str:
    """Return a value as JSON for people; a long one on one line, cut: to indent it takes long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= LONGEST_TEXT:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return cut(text)


def cut(text: str) -> str:
    """Return a text, cut where it is longer than a page shows."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text)} characters)"
