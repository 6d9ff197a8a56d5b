"""What would let strangers in is refused before anything listens."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from orbiter.dashboard.options import DashboardError, Options

URL = "redis://127.0.0.1:6379"
FILE = Path("users")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_needs_no_password(host: str) -> None:
    Options(URL, host=host).check()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"host": "0.0.0.0"}, "--password-file"),
        ({"host": "::"}, "--password-file"),
        ({"host": "10.0.0.1"}, "--password-file"),
        ({"host": "example.org"}, "--password-file"),
        ({"host": "10.0.0.1", "proxy_header": "X-Remote-User"}, "--proxy-from"),
        ({"host": "10.0.0.1", "proxies": (ip_network("10.0.0.2"),)}, "--password-file"),
        ({"proxies": (ip_network("10.0.0.2"),)}, "--proxy-header"),
        ({"proxy_header": "Host", "proxies": (ip_network("10.0.0.2"),)}, "X-Remote-User"),
        ({"proxy_header": "X: y", "proxies": (ip_network("10.0.0.2"),)}, "X-Remote-User"),
        ({"proxy_header": "X-User", "proxies": (ip_network("0.0.0.0/0"),)}, "--proxy-from"),
        ({"certificate": FILE}, "--tls-key"),
    ],
)
def test_options_that_let_strangers_in_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(DashboardError, match=named):
        Options(URL, **options).check()


@pytest.mark.parametrize(
    "options", [{"password_file": FILE}, {"proxy_header": "X-User", "proxies": (ip_network("10.0.0.0/24"),)}]
)
def test_others_are_served_once_they_are_known(options: dict[str, Any]) -> None:
    Options(URL, host="0.0.0.0", **options).check()
