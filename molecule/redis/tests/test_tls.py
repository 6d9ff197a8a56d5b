"""Redis with TLS: by the fleet's own authority or by given certificates, renewed while clients stay connected."""

from __future__ import annotations

import ssl

import pytest
import redis
import trustme
from conftest import shown

PORT = 6379


@pytest.fixture(scope="module")
def server(servers):
    """Return the server with TLS."""
    return servers["redis2"]


def served(server):
    """Return the certificate that the server shows."""
    return ssl.get_server_certificate((server.variables["redis_bind"], PORT))


def issue(folder, *names):
    """Write a certificate of some authority with its key; return the role's variables for them."""
    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    folder.mkdir()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    parts = {"cert": "cert.pem", "key": "key.pem", "ca": "ca.pem"}
    return {f"redis_tls_{part}": str(folder / file) for part, file in parts.items()}


def test_redis_speaks_nothing_but_tls(server):
    with pytest.raises(redis.ConnectionError):
        redis.Redis(server.variables["redis_bind"], PORT, socket_timeout=5).ping()
    listening = server.host.check_output("ss --no-header --listening --tcp --numeric --processes | grep redis-server")
    assert {line.split()[3].rpartition(":")[2] for line in listening.splitlines()} == {str(PORT)}


def test_workers_check_the_certificate(server, on):
    worker = on("worker2")
    url = worker.check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
    assert url.startswith("rediss://worker:")
    assert url.endswith("?ssl_ca_certs=/etc/orbiter/redis-ca.pem")
    assert worker.file("/etc/orbiter/redis-ca.pem").content_string == server.authority.read_text()


def test_redis_cli_takes_the_url_that_workers_take_and_the_authority_from_the_environment(server, on):
    """The guide's troubleshooting, where Redis speaks TLS: redis-cli -u $ORBITER_REDIS_URL ping."""
    url = on("worker2").check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
    ping = "redis-cli --no-auth-warning -u %s ping"
    assert "PONG" not in server.host.run(ping, url).stdout
    assert server.host.check_output(f"SSL_CERT_FILE=/etc/redis/tls/ca.pem {ping}", url) == "PONG"


def test_keys_are_kept_from_others(server):
    key = server.host.file("/etc/redis/tls/redis.key")
    assert (key.mode, key.user) == (0o640, "redis")
    assert server.authority.with_name("ca.key").stat().st_mode & 0o077 == 0


def test_a_key_of_another_certificate_is_refused_before_it_is_copied(server, site, tmp_path):
    one, other = issue(tmp_path / "one", "redis2"), issue(tmp_path / "other", "redis2")
    before = served(server)
    done = site("redis2", **(one | {"redis_tls_key": other["redis_tls_key"]}))
    assert done.returncode == 2
    assert "must be a certificate that is valid today, and" in shown(done)
    assert server.host.file("/etc/redis/tls/redis.pem").content_string.strip() == before.strip()


@pytest.mark.nightly
def test_certificates_change_and_renew_while_clients_stay(server, site, tmp_path):
    mine = server.authority.with_name("redis2.pem")
    client = server.fleet.redis
    connection = client.client_id()
    run_id = server.run_id()
    # Given ones.
    given = issue(tmp_path / "given", "redis2", server.variables["redis_bind"])
    assert site("redis2", **given).returncode == 0
    assert ssl.PEM_cert_to_DER_cert(served(server)) == ssl.PEM_cert_to_DER_cert(
        (tmp_path / "given/cert.pem").read_text()
    )
    # One of the fleet's own, that ends in 20 days: the next play renews it, as it would 29 days before its end.
    mine.unlink()
    assert site("redis2", redis_tls_days=20).returncode == 0
    ending = served(server)
    assert ssl.PEM_cert_to_DER_cert(ending) == ssl.PEM_cert_to_DER_cert(mine.read_text())
    assert site("redis2").returncode == 0
    renewed = served(server)
    assert renewed != ending
    assert ssl.PEM_cert_to_DER_cert(renewed) == ssl.PEM_cert_to_DER_cert(mine.read_text())
    # Nobody was disconnected.
    assert client.client_id() == connection
    assert server.run_id() == run_id
    assert type(server.fleet)(server.url("worker")).redis.ping()
