"""What a certificate says, and whose key and authority are its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trustme
from ansible.errors import AnsibleFilterError
from ansible_collections.orbiter.fleet.plugins.filter.certificate import certificate

NOW = datetime.now(UTC)


def text(blob):
    """Return a PEM of trustme."""
    return blob.bytes().decode()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def issued(authority):
    return authority.issue_cert("redis1", "10.0.0.1", not_before=NOW, not_after=NOW + timedelta(days=20, hours=1))


def pem(issued):
    return text(issued.cert_chain_pems[0])


def test_a_certificate_says_what_it_is_for_and_until_when(issued):
    known = certificate(pem(issued))
    assert known["names"] == ["DNS:redis1", "IP:10.0.0.1"]
    assert (known["days"], known["begun"]) == (20, True)
    assert (known["fits"], known["signed"]) == (False, False)


def test_key_and_authority_are_its_own_by_their_keys(authority, issued):
    known = certificate(pem(issued), text(issued.private_key_pem), text(authority.cert_pem))
    assert (known["fits"], known["signed"]) == (True, True)
    other = trustme.CA()
    key = text(other.issue_cert("redis1").private_key_pem)
    known = certificate(pem(issued), key, text(other.cert_pem))
    assert (known["fits"], known["signed"]) == (False, False)


@pytest.mark.parametrize(("begin", "end", "days", "begun"), [(-2, -0.5, -1, True), (1, 2, 1, False)])
def test_one_that_is_over_and_one_that_is_to_come_are_told_apart(authority, begin, end, days, begun):
    made = authority.issue_cert("a", not_before=NOW + timedelta(days=begin), not_after=NOW + timedelta(days=end))
    known = certificate(pem(made))
    assert (known["days"], known["begun"]) == (days, begun)


def test_what_is_no_certificate_or_no_key_is_refused(issued):
    with pytest.raises(AnsibleFilterError, match="no certificate"):
        certificate("-----BEGIN CERTIFICATE-----\nx")
    with pytest.raises(AnsibleFilterError, match="no private key"):
        certificate(pem(issued), "secret")
