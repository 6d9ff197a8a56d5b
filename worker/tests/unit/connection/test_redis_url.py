"""Redis URLs: what is accepted, what is refused, what is shown."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orbiter.distributed.connection.redis_url import EXAMPLES, RedisUrlError, check, connect, mask
from tests.servers import Certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/3",
        "redis://user:p%40ss@[::1]:6379/0",
        "redis://:password@localhost",
        "rediss://redis.example.org:6380",
        "rediss://redis.example.org?ssl_cert_reqs=none",
        "unix:///run/redis/redis.sock",
        "unix:///run/redis@1/redis.sock",
        "unix://user:secret@/run/redis%401/redis.sock?db=3",
        "redis+sentinel://s1,s2:26380,[::1]:26379/mymaster",
        "redis+sentinel://user:secret@s1/my-master.1/2?sentinel_username=watch&sentinel_password=p%40ss",
        "rediss+sentinel://s1/mymaster?ssl_check_hostname=false",
        "rediss+sentinel://s1:26380/mymaster?server_port=6380",
        "redis+cluster://h1:7000,h2:7001",
        "rediss+cluster://user:secret@h1/0?ssl_cert_reqs=required",
    ],
)
def test_good_urls_are_accepted(url: str) -> None:
    check(url)


def test_parts_are_read_as_they_are_meant() -> None:
    parts = check("redis+sentinel://u%3A:p%2F@s1,[::1]:5/mymaster/2?sentinel_username=w&sentinel_password=p%40")
    assert parts.hosts == (("s1", 26379), ("::1", 5))
    assert (parts.kind, parts.service, parts.db, parts.secure) == ("sentinel", "mymaster", 2, False)
    assert parts.login == {"username": "u:", "password": "p/"}
    assert parts.sentinel_login == {"username": "w", "password": "p@"}
    assert (parts.server_port, check("redis+sentinel://s1/m?server_port=6380").server_port) == (0, 6380)
    assert check("redis+cluster://h1,h2:7").hosts == (("h1", 6379), ("h2", 7))
    assert check("redis://:only@h").login == {"password": "only"}
    assert "p/" not in repr(parts)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "scheme"),
        ("localhost:6379", "localhost:6379: no scheme before the host; write redis://localhost:6379"),
        ("localhost:0", r"URL \*\*\*: scheme"),
        ("user:secret@localhost:6379", r"URL \*\*\*: scheme"),
        ("http://localhost", "scheme"),
        ("redis+socket://h", "scheme"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://localhost:port", "port must be 1 to 65535"),
        ("redis://localhost:99999", "port must be"),
        ("redis://localhost:0", "port must be"),
        ("redis://localhost:6379:6380", "port must be"),
        ("redis://[::1", "IPv6"),
        ("redis://[::1]6379", "comes :port"),
        ("redis://h1,h2", "a host is a name"),
        ("redis://localhost/db", "the database must be a number"),
        ("redis://localhost#0", "nothing may follow a #"),
        ("redis://local host", "spaces"),
        ("redis://user:pa/ss@localhost", "percent-encoded"),
        ("redis://user:pa?ss@localhost", "percent-encoded"),
        ("redis://user:p@ss@localhost", "percent-encoded"),
        ("redis://localhost?socket_timeout=3", "unknown option.*knows none"),
        ("redis://localhost?ssl_ca_certs=/ca.pem", "ssl_ca_certs needs TLS: rediss://"),
        ("redis+cluster://localhost?ssl_cert_reqs=none", r"needs TLS: rediss\+cluster://"),
        ("rediss://localhost?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs must name a file"),
        ("rediss://localhost?ssl_ca_certs=", "ssl_ca_certs has no value"),
        ("rediss://localhost?ssl_keyfile=/etc/hosts", "ssl_keyfile needs ssl_certfile"),
        ("rediss://localhost?ssl_ca_certs=/etc/hosts", "ssl_ca_certs does not hold PEM"),
        ("rediss://localhost?ssl_certfile=/etc/hosts", "ssl_certfile does not hold PEM"),
        ("rediss://localhost?ssl_cert_reqs=maybe", "ssl_cert_reqs must be one of required, optional, none"),
        ("rediss://localhost?ssl_check_hostname=perhaps", "ssl_check_hostname must be true or false"),
        ("rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=true", "needs ssl_cert_reqs=required"),
        ("rediss://localhost?ssl_cert_reqs=none&ssl_cert_reqs=none", "given twice"),
        ("unix://", "no socket path"),
        ("unix://run/redis.sock", "must begin with a /"),
        ("redis+sentinel://s1,s2", "master's name is missing"),
        ("redis+sentinel://s1/0/0/0", "the database must be a number"),
        ("redis+sentinel://s1,,s2/mymaster", "no host"),
        ("redis+sentinel://s1/my%20master", "master's name must be"),
        ("redis+sentinel://s1/mymaster?sentinel_user=x", "unknown option.*sentinel_username, sentinel_password"),
        ("redis+sentinel://s1/mymaster?server_port=0", "server_port must be 1 to 65535"),
        ("redis+sentinel://s1/mymaster?server_port=tls", "server_port must be 1 to 65535"),
        ("redis://s1?server_port=6380", "unknown option"),
        ("redis+sentinel://u:p@s1,u:p@s2/mymaster", "percent-encoded"),
        ("redis+cluster://h1/1", "database 0 only"),
    ],
)
def test_wrong_urls_name_the_rule_and_a_remedy(url: str, rule: str) -> None:
    with pytest.raises(RedisUrlError, match=rule) as error:
        check(url)
    assert "://" in str(error.value)
    if (scheme := url.partition("://")[0]) in EXAMPLES:
        assert str(error.value).endswith(f"write {EXAMPLES[scheme]}")


def test_every_example_is_a_good_url(certificates: Certificates) -> None:
    for url in EXAMPLES.values():
        check(url.replace("/etc/ssl/redis-ca.pem", str(certificates.ca)))


def test_certificates_of_the_url_are_loaded_and_must_fit_their_key(certificates: Certificates, tmp_path: Path) -> None:
    parts = check(f"rediss+sentinel://s1/mymaster?{urlencode(certificates.options)}")
    assert parts.tls["ssl_certfile"] == str(certificates.cert)
    other = Certificates.make(tmp_path)
    with pytest.raises(RedisUrlError, match="ssl_certfile does not hold PEM"):
        check(f"rediss://h?ssl_certfile={certificates.cert}&ssl_keyfile={other.key}")


def test_mask_shows_hosts_and_nothing_else() -> None:
    assert mask("redis://user:secret@localhost:6379/0?ssl=x") == "redis://localhost:6379/***"
    assert mask("redis+sentinel://u:p@s1:1,[::1]:2,s3/m/0?sentinel_password=x") == (
        "redis+sentinel://s1:1,[::1]:2,s3/***"
    )
    assert mask("redis+cluster://u:p@h1,h2:7") == "redis+cluster://h1,h2:7/***"
    assert mask("unix://u:p@/run/redis.sock?db=1") == "unix:///run/redis.sock"
    assert mask("redis://user:123/4@localhost") == "redis://***"
    assert mask("nonsense") == "redis://***"


def test_keepalive_finds_a_dead_peer_within_half_a_minute() -> None:
    options = connect("redis://localhost").connection_pool.connection_kwargs
    assert options["socket_timeout"] is None
    assert options["socket_keepalive_options"] == {
        socket.TCP_KEEPIDLE: 15,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    }


# -- nothing secret is ever shown --------------------------------------------------------------------------------------

SCHEMES = [*EXAMPLES, "http", "", "redis+x"]
PLACES = ["", "h", "h:1", "h:x", "h1:1,h2:2", "[::1]:1", "[::1", "h/0", "h/m/0", "/run/x.sock", "h?ssl_cert_reqs=no"]


def leaks(text: str, secret: str) -> bool:
    """Whether four characters of the secret that stand beside each other can be seen."""
    return any(secret[at : at + 4] in text for at in range(len(secret) - 3))


def everything_shown(url: str) -> str:
    shown = mask(url)
    try:
        check(url)
    except RedisUrlError as error:
        shown += str(error)
    return shown


@given(st.text(min_size=4), st.sampled_from(SCHEMES), st.sampled_from(PLACES))
@example("1234/x:56", "redis", "h")
@example("1234@h:1,u:1234", "redis+sentinel", "h")
@example("[2001:db8::1]", "redis", "h")
@example("12345,23456:1", "redis+cluster", "h")
def test_no_secret_is_ever_shown(secret: str, scheme: str, place: str) -> None:
    # Between walls that no text of ours has, so that what is found is the secret.
    walled = f"Zq7W{secret}W7qZ"
    for text in (walled, quote(walled, safe="")):
        shown = everything_shown(f"{scheme}://user:{text}@{place}")
        assert "Zq7W" not in shown
        assert "W7qZ" not in shown


@given(st.text(alphabet=st.sampled_from("0123456789abcdefZ./?#@:,[]%&=+-_ ")), st.sampled_from(SCHEMES))
def test_no_digit_of_a_secret_is_ever_shown(secret: str, scheme: str) -> None:
    walled = f"8642{secret}9753"
    shown = everything_shown(f"{scheme}://user:{walled}@host:1/x")
    assert not leaks(shown.replace("65535", "").replace("6379", "").replace("26379", ""), "8642")
    assert not leaks(shown, "9753")


@given(st.text())
def test_any_text_is_a_url_or_a_clear_error(text: str) -> None:
    for url in (text, *(f"{scheme}://{text}" for scheme in EXAMPLES)):
        mask(url)
        try:
            check(url)
        except RedisUrlError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hunter2@host", "Redis URL http://***: scheme"),
        ("reddis://host", "Redis URL reddis://***: scheme"),
        ("redis//me:hunter2@host", "Redis URL ***: scheme"),
        ("hunter2@redis://host", "Redis URL ***: scheme"),
    ],
)
def test_a_wrong_scheme_is_shown_and_nothing_that_may_be_a_password(url: str, shown: str) -> None:
    with pytest.raises(RedisUrlError, match=re.escape(shown)) as caught:
        check(url)
    assert "hunter2" not in str(caught.value)
