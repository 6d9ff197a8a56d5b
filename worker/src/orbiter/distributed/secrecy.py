"""Secrecy: what this process knows that no text of it may tell, and how texts are freed of it.

Errors quote what they were given: a login that a server does not take, a key in the address of a request. Whoever makes
a text of an error (:func:`orbiter.distributed.errors.text_of`) or of a log's record hides them here.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote

INSTEAD = "***"
# A shorter one would be found in texts that have nothing to do with it.
SHORTEST = 8
# Of variables that hold one: OPENAI_API_KEY, AWS_SECRET_ACCESS_KEY, HF_TOKEN, TEMPORAL_TLS_CLIENT_KEY_DATA.
_NAMES = re.compile(r"(^|_)(\w*KEY|KEY_DATA|\w*TOKEN|\w*SECRET|\w*PASSWORD|PASSWD|PASSPHRASE|PWD)$", re.IGNORECASE)
# The working directory, which shells write there.
_NO_SECRETS = {"PWD", "OLDPWD"}
# scheme://user:password@host. One that is not percent-encoded may go as far as to a later @.
_LOGINS = (re.compile(r"://[^\s:/?#@]*:([^\s@]+)@"), re.compile(r"://[^\s:/?#@]*:(\S+)@"))
_kept: set[str] = set()


class _Known(NamedTuple):
    """What to hide, and the environment that it was found in."""

    environment: dict[Any, Any]
    forms: tuple[str, ...]
    pattern: re.Pattern[str]


_known: _Known | None = None


def keep_secret(secret: str | None) -> None:
    """Hide this from now on, which is not in the environment; nothing is hidden for ``None`` and what is very short."""
    global _known  # noqa: PLW0603 - one process has one set of secrets
    if secret and len(secret) >= SHORTEST and secret not in _kept:
        _kept.add(secret)
        _known = None


def hide(text: str) -> str:
    """Return a text with ``***`` for every secret: as it is, percent-encoded, or as a string in JSON or Python has it.

    Secrets are what was kept secret, the values of variables that by their name hold a key, token, secret or password,
    and the passwords in variables that hold a URL. Of one with several lines, such as a key in PEM, each is hidden.
    """
    known = _look()
    # Nearly every text of a log holds none, and a worker writes thousands in a second.
    return known.pattern.sub(INSTEAD, text) if any(form in text for form in known.forms) else text


def _look() -> _Known:
    """Return what to hide now: programs and tasks may set variables of their own."""
    global _known  # noqa: PLW0603
    # Its own dictionary, which is compared in a microsecond; to read it by name takes fifty.
    environment = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
    if _known is None or _known.environment != environment:
        forms = sorted(_forms(_kept | set(_of_environment())), key=len, reverse=True)
        # The longest first: one may begin with another.
        _known = _Known(dict(environment), tuple(forms), re.compile("|".join(map(re.escape, forms))))
    return _known


def _of_environment() -> list[str]:
    """Return the secrets in the environment."""
    found = []
    for name, value in os.environ.items():
        if len(value) < SHORTEST:
            continue
        if _NAMES.search(name) and name not in _NO_SECRETS:
            found.append(value)
        elif "://" in value:
            found += [login[1] for pattern in _LOGINS if (login := pattern.search(value))]
    return found


def _forms(secrets: set[str]) -> set[str]:
    """Return what secrets look like in texts."""
    forms = set()
    for secret in secrets:
        for line in {secret, unquote(secret), *secret.splitlines()}:
            if len(line) >= SHORTEST and not line.startswith("-----"):
                forms |= {line, quote(line), quote(line, safe=""), quote_plus(line)}
                forms |= {json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1], repr(line)[1:-1]}
    return forms
