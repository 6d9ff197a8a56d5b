"""Passwords: a file of users and hashes, made by ``orbiter dashboard --hash-password``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import stat
from typing import TYPE_CHECKING

from orbiter.dashboard.options import DashboardError
from orbiter.distributed.reading import REMEDY, not_for_this_user

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 1024
SHORTEST = 10
_COST, _BLOCK, _LANES, _MOST_BYTES = 2**14, 8, 5, 64 * 1024 * 1024
_LINE = re.compile(r"([A-Za-z0-9_.@-]{1,64}):scrypt\$([A-Za-z0-9+/=]{16,})\$([A-Za-z0-9+/=]{32,})")
_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


def hash_line(user: str, password: str) -> str:
    """Return the line of the file for a user.

    Raises:
        DashboardError: The name or the password breaks its rule.
    """
    if not _USER.fullmatch(user):
        raise DashboardError(f"{user!r} is no name of a user: use 1 to 64 letters, digits, or any of _ . @ -")
    if not SHORTEST <= len(password) <= LONGEST:
        raise DashboardError(f"the password has {len(password)} characters: use {SHORTEST} to {LONGEST}")
    salt = secrets.token_bytes(16)
    return f"{user}:scrypt${_text(salt)}${_text(_hash(password, salt))}"


class Passwords:
    """Users and hashes of their passwords, read once.

    Args:
        path: The file.

    Raises:
        DashboardError: It cannot be read, everybody may read it, or a line is none.
    """

    def __init__(self, path: Path) -> None:
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        except PermissionError:
            raise DashboardError(f"--password-file {not_for_this_user(path)}; {REMEDY}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DashboardError(f"--password-file {path}: cannot be read: {error}") from None
        if mode & stat.S_IRWXO:
            raise DashboardError(f"--password-file {path}: everybody may use it; chmod 0640 {path}")
        self._hashes: dict[str, tuple[bytes, bytes]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                how = "make one with: orbiter dashboard --hash-password NAME"
                raise DashboardError(f"--password-file {path}: line {number} is no user with a hash; {how}")
            self._hashes[found[1]] = base64.b64decode(found[2]), base64.b64decode(found[3])
        if not self._hashes:
            raise DashboardError(f"--password-file {path}: nobody is in it; add a user: --hash-password NAME")
        # One hash at a time: guesses cost one core at most, and a few dozen megabytes.
        self._hashing = asyncio.Semaphore(1)
        self._nobody = secrets.token_bytes(16), secrets.token_bytes(64)

    async def right(self, user: str, password: str) -> bool:
        """Tell whether this is the user's password; it takes as long for a user who is not there."""
        salt, known = self._hashes.get(user, self._nobody)
        async with self._hashing:
            found = await asyncio.to_thread(_hash, password[:LONGEST], salt)
        return hmac.compare_digest(found, known) and user in self._hashes

    def knows(self, user: str) -> bool:
        """Tell whether there is such a user."""
        return user in self._hashes


def _hash(password: str, salt: bytes) -> bytes:
    raw = password.encode("utf-8", "replace")
    return hashlib.scrypt(raw, salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=_MOST_BYTES, dklen=64)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
