"""Who is connected without TLS is told, but for the members of the server's own group."""

from __future__ import annotations

import redis
from conftest import Server, wait_until

USERS = ("user admin on >operators ~* &* +@all", "user client on >clients ~* &* +@all")


def test_replicas_and_sentinels_leave_by_themselves_and_do_not_count(module, tmp_path):
    socket = tmp_path / "redis.sock"
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "admin.password").write_text("operators")
    with Server(tmp_path / "one", f"unixsocket {socket}", *USERS) as server:
        follows = (f"replicaof 127.0.0.1 {server.port}", "masteruser admin", "masterauth operators")
        with Server(tmp_path / "other", *follows) as replica:
            wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", within=30)
            logins = [
                ("admin", "operators", "sentinel-0a1b2c3d-cmd"),
                ("admin", "operators", "sentinel-0a1b2c3d-pubsub"),
            ]
            logins += [("client", "clients", "sentinel-0a1b2c3d-cmd"), ("admin", "operators", "mine")]
            named = [
                redis.Redis(port=server.port, username=user, password=password, client_name=name)
                for user, password, name in logins
            ]
            assert all(client.ping() for client in named)
            server.client.close()
            seen = module("redis_clients", etc=str(tmp_path), socket=str(socket))
            for client in named:
                client.close()
    assert (seen["port"], seen["tls_port"], seen["tls_replication"]) == (server.port, 0, False)
    assert sorted(seen["connected"]) == [
        "127.0.0.1 as admin, mine (1 connection)",
        "127.0.0.1 as client, sentinel-0a1b2c3d-cmd (1 connection)",
    ]
