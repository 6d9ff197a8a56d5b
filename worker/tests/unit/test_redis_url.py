"""Redis URLs: what is accepted, what is refused, what is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.distributed.redis_url import RedisUrlError, check, mask


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/3",
        "redis://user:p%40ss@[::1]:6379/0",
        "rediss://redis.example.org:6380",
        "unix:///run/redis/redis.sock",
    ],
)
def test_good_urls_are_accepted(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "scheme"),
        ("localhost:6379", "scheme"),
        ("http://localhost", "scheme"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://localhost:port", "Port"),
        ("redis://localhost:99999", "Port"),
        ("redis://localhost:0", "port must be"),
        ("redis://localhost/db", "database 'db'"),
        ("unix://", "no socket path"),
    ],
)
def test_wrong_urls_name_the_rule_and_a_remedy(url: str, rule: str) -> None:
    with pytest.raises(RedisUrlError, match=rule) as error:
        check(url)
    assert "://" in str(error.value)


def test_mask_looks_as_in_the_banner() -> None:
    assert mask("redis://user:secret@localhost:6379/0?ssl=x") == "redis://localhost:6379/***"
    assert mask("nonsense") == "redis://***"


SECRET = st.text(alphabet="abcXYZ0123456789-_", min_size=12)


@given(SECRET, st.sampled_from(["redis", "rediss", "http", "", "redis+sentinel"]), st.sampled_from(["h", "h:1", "h:x"]))
def test_no_secret_is_ever_shown(secret: str, scheme: str, place: str) -> None:
    url = f"{scheme}://user:{secret}@{place}/0"
    assert secret not in mask(url)
    try:
        check(url)
    except RedisUrlError as error:
        assert secret not in str(error)
