"""Forms: what a page of ours has sent. No form is read without its token."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request

    from orbiter.dashboard.seals import Seals

MOST_FIELDS = 1100


async def read_form(request: Request, seals: Seals) -> dict[str, list[str]]:
    """Return the fields of a form of ours.

    Raises:
        HTTPException: It is none: its token is not of this visit, there are too many fields, or it does not come whole.
    """
    try:
        body = (await request.body()).decode("utf-8", "replace")
    except ClientDisconnect:
        raise HTTPException(408, "The form did not arrive in time, or it is too large. Send it again.") from None
    try:
        pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise HTTPException(413, f"The form has more than {MOST_FIELDS} fields.") from None
    fields: dict[str, list[str]] = {}
    for name, text in pairs:
        fields.setdefault(name, []).append(text)
    if not seals.fits("".join(fields.pop("token", [])), request.state.visit, request.state.who):
        raise HTTPException(403, "This form is no longer valid, as of a page from before a restart. Reload the page.")
    return fields
