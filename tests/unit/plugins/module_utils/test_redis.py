"""The Redis client of modules, against a real server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import NoAnswerError, Redis, RedisError
from conftest import Server, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = 'two words "and\\ #'


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """Return the Unix socket of a Redis as the role has it: the user admin, and nobody else."""
    place = f"{tmp_path}/redis.sock"
    with Server(tmp_path, f"unixsocket {place}") as server:
        server.client.execute_command("ACL", "SETUSER", "admin", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        yield place


def redis_at(server: Server) -> Redis:
    return Redis(("127.0.0.1", server.port), server.password, user=None)


def test_answers_of_every_kind_come_as_they_are(server: Server) -> None:
    with redis_at(server) as redis:
        assert redis.ask("SET", "key", "a\r\nb\n\n") == "OK"
        assert redis.ask("GET", "key") == "a\r\nb\n\n"
        assert redis.ask("GET", "nothing") is None
        assert redis.ask("INCRBY", "number", 41) == 41
        assert redis.ask("BLPOP", "nothing", "0.01") is None
        assert redis.ask("EVAL", "return {1, 'x', false, {'y', {}}}", 0) == [1, "x", None, ["y", []]]


def test_bytes_that_are_no_text_come_and_go_unchanged(server: Server) -> None:
    server.client.execute_command("SET", "key", b"\xff\xfe ok \xc3\xa9")
    with redis_at(server) as redis:
        redis.ask("SET", "copy", redis.ask("GET", "key"))
        assert redis.ask("EVAL", "return redis.call('GET', 'key') == redis.call('GET', 'copy')", 0) == 1


def test_what_redis_refuses_is_an_error_with_its_words_and_the_connection_goes_on(server: Server) -> None:
    with redis_at(server) as redis:
        with pytest.raises(RedisError, match=r"^ERR unknown command"):
            redis.ask("NONSENSE")
        redis.ask("SET", "key", "text")
        redis.ask("MULTI")
        redis.ask("LPUSH", "key", "x")
        redis.ask("ECHO", "still here")
        (refused, said) = redis.ask("EXEC")
        assert isinstance(refused, RedisError)
        assert str(refused).startswith("WRONGTYPE")
        assert said == "still here"


def test_info_settings_and_clients_are_read_as_names_and_values(server: Server) -> None:
    with redis_at(server) as redis:
        assert redis.info("replication")["role"] == "master"
        assert redis.settings("port", "maxclients")["port"] == str(server.port)
        redis.ask("CLIENT", "SETNAME", "me")
        assert "me" in [client["name"] for client in redis.clients()]


def test_a_wrong_password_is_refused(server: Server) -> None:
    with pytest.raises(RedisError, match=r"^WRONGPASS"):
        Redis(("127.0.0.1", server.port), "wrong", user="default")


@pytest.mark.parametrize(
    "files", [{"admin.password": PASSWORD}, {"admin.password": "the next one", ".admin.password": PASSWORD}]
)
def test_the_hosts_own_redis_is_entered_as_admin_with_the_password_or_the_one_before(
    place: str, tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    with _redis.local(etc=tmp_path, place=place) as redis:
        assert redis.ask("ACL", "WHOAMI") == "admin"


def test_where_no_password_is_the_right_one_the_files_are_named(place: str, tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match=r"admin\.password"):
        _redis.local(etc=tmp_path, place=place)
    (tmp_path / "admin.password").write_text("wrong")
    (tmp_path / ".admin.password").write_text("wrong, too")
    with pytest.raises(RedisError, match=r"users\.acl"):
        _redis.local(etc=tmp_path, place=place)


def test_where_nothing_answers_it_is_said_and_where(tmp_path: Path) -> None:
    (tmp_path / "admin.password").write_text(PASSWORD)
    with pytest.raises(NoAnswerError, match=r"no\.sock"):
        _redis.local(etc=tmp_path, place=f"{tmp_path}/no.sock")
    with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1"):
        Redis(("127.0.0.1", free_port()))


@pytest.mark.parametrize("said", [b"", b"$10\r\nabc", b"HTTP/1.1 400 Bad Request\r\n", b"*2\r\n:1\r\n"])
def test_half_an_answer_or_none_is_no_answer(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NoAnswerError), Redis(listening.getsockname(), timeout=5) as redis:
            redis.ask("GET", "key")
        thread.join()


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_the_timeout(server: Server) -> None:
    impatient = Redis(("127.0.0.1", server.port), server.password, user=None, timeout=0.2)
    with impatient as redis, pytest.raises(NoAnswerError, match="BLPOP"):
        redis.ask("BLPOP", "nothing", 0)


def test_with_tls_only_a_server_of_the_authority_is_believed(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", "/CN=redis", "-days", "1"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
    port = free_port()
    options = [f"tls-port {port}", f"tls-cert-file {tmp_path}/ours.pem", f"tls-key-file {tmp_path}/ours.key"]
    with Server(tmp_path, *options, f"tls-ca-cert-file {tmp_path}/ours.pem", "tls-auth-clients no") as server:
        ours, other = (_redis.tls_context(tmp_path / f"{name}.pem") for name in ("ours", "other"))
        with Redis(("127.0.0.1", port), server.password, user="default", tls=ours) as redis:
            assert redis.ask("PING") == "PONG"
        with pytest.raises(NoAnswerError, match="certificate"):
            Redis(("127.0.0.1", port), server.password, user="default", tls=other)


def test_a_server_that_has_just_been_started_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "admin.password").write_text(PASSWORD)
    place = f"{tmp_path}/redis.sock"
    program = shutil.which("redis-server")
    assert program
    seen: list[object] = []
    waiting = threading.Thread(target=lambda: seen.append(_redis.local(30, tmp_path, place).ask("PING")))
    waiting.start()
    (tmp_path / "users.acl").write_text(f"user admin on >{PASSWORD[:3]} ~* &* +@all\n")
    (tmp_path / "admin.password").write_text(PASSWORD[:3])
    words = [
        program,
        "--port",
        "0",
        "--unixsocket",
        place,
        "--dir",
        str(tmp_path),
        "--aclfile",
        f"{tmp_path}/users.acl",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: seen, within=30)
        assert seen == ["PONG"]
    finally:
        process.terminate()
        process.wait(20)
        waiting.join()


def test_settings_are_read_from_a_file_as_redis_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "redis.conf"
    file.write_text('# a remark\nport 1\nport 6379\n requirepass "a \\"b\\\\"\nsave ""\n')
    assert _redis.written_settings(file) == {"port": "6379", "requirepass": 'a "b\\', "save": ""}
