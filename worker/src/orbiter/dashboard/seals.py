"""Seals: cookies and form tokens that nobody but this process can make. It keeps nothing of them."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time

SESSION = "orbiter_session"
VISIT = "orbiter_visit"
NOTICE = "orbiter_notice"
# Seconds for which somebody stays logged in, and for which a message is shown.
SESSION_LASTS = 12 * 3600.0
NOTICE_LASTS = 60.0
_LONGEST = 2000


class Seals:
    """Seals texts with a secret of this process; a restart ends sessions and makes open forms stale."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def seal(self, kind: str, text: str) -> str:
        """Return a text as a cookie's value."""
        body = base64.urlsafe_b64encode(json.dumps([text, time.time()]).encode()).decode()
        return f"{body}.{self._sign(kind, body)}"

    def opened(self, kind: str, sealed: str, *, lasts: float) -> str | None:
        """Return the text, ``None`` where it was not sealed here, for this, and lately."""
        body, dot, signature = sealed.rpartition(".")
        if not dot or len(sealed) > _LONGEST or not _same(self._sign(kind, body), signature):
            return None
        text, at = json.loads(base64.urlsafe_b64decode(body))
        return str(text) if 0 <= time.time() - at < lasts else None

    @staticmethod
    def visit() -> str:
        """Return the name of a new visit: that of a browser whose forms are its own."""
        return secrets.token_urlsafe(24)

    def token(self, visit: str, who: str) -> str:
        """Return the token of the forms of a visit."""
        return self._sign("form", f"{visit} {who}")

    def fits(self, token: str, visit: str, who: str) -> bool:
        """Tell whether that is the token of this visit's forms."""
        return bool(visit) and _same(self.token(visit, who), token)

    def _sign(self, kind: str, text: str) -> str:
        return hmac.new(self._secret, f"{kind}:{text}".encode("utf-8", "replace"), "sha256").hexdigest()


def _same(ours: str, theirs: str) -> bool:
    # As bytes: of texts it takes ASCII alone.
    return hmac.compare_digest(ours.encode(), theirs.encode("utf-8", "replace"))
