"""Options of the dashboard, and what of them is refused: whoever reaches a port has to be known."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orbiter.distributed.errors import OrbiterError
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from pathlib import Path

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8420
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
# Headers that a browser or a proxy sends of its own accord name nobody.
_NO_NAMES = {"host", "cookie", "origin", "referer", "user-agent", "accept", "connection", "content-type", "forwarded"}


class DashboardError(OrbiterError):
    """The dashboard cannot be served so; the message names the option, the rule and the remedy."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the dashboard is served.

    Attributes:
        redis_url: Where the fleet's Redis is.
        namespace: The first word of all its keys.
        queue: The queue that is shown first.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        allow_actions: Whether people may act on the fleet, not only look.
        password_file: File of users and hashes of their passwords.
        proxy_header: Header in which a proxy tells who somebody is.
        proxies: Whose word for that counts.
        hosts: Further names by which browsers may call the dashboard.
        certificate: File with its TLS certificate.
        key: File with the key of that.
    """

    redis_url: str
    namespace: str = DEFAULT_NAMESPACE
    queue: str = DEFAULT_QUEUE
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    allow_actions: bool = False
    password_file: Path | None = None
    proxy_header: str = ""
    proxies: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def open(self) -> bool:
        """Whether nobody has to say who they are."""
        return self.password_file is None and not self.proxy_header

    def check(self) -> None:
        """Refuse what would let strangers in.

        Raises:
            DashboardError: It would.
        """
        if not self.local and self.open:
            raise DashboardError(
                f"--host {self.host}: others than this machine could look at the fleet. Give --password-file, or"
                " --proxy-header with --proxy-from, or leave --host at 127.0.0.1 and use an SSH tunnel"
            )
        if bool(self.proxy_header) != bool(self.proxies):
            option, missing = (
                ("--proxy-header", "--proxy-from") if self.proxy_header else ("--proxy-from", "--proxy-header")
            )
            raise DashboardError(f"{option} needs {missing}: a header counts only from addresses that are named")
        if self.proxy_header and (not _HEADER.fullmatch(self.proxy_header) or self.proxy_header.lower() in _NO_NAMES):
            raise DashboardError(
                f"--proxy-header {self.proxy_header!r}: give a header of its own, such as X-Remote-User"
            )
        if any(network.prefixlen == 0 for network in self.proxies):
            raise DashboardError("--proxy-from: everybody is no proxy; name its address, such as 10.0.0.5")
        if bool(self.certificate) != bool(self.key):
            raise DashboardError("--tls-certificate and --tls-key belong together: give both")


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(text: str) -> Network:
    """Return an address or a network.

    Raises:
        ValueError: It is neither.
    """
    return ipaddress.ip_network(text, strict=False)
