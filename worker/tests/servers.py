"""Real Redis servers of every kind, on free loopback ports, without anything on disk that outlives the test session."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.rights import refusals
from tests.support import PATIENCE, free_port, slowness

SERVICE = "mymaster"
# Who does not answer for so long is taken for dead; longer on a machine on which nobody answers soon.
DOWN_AFTER_MS = 1000


def eventually(condition: Callable[[], object], *, within: float = PATIENCE, what: str = "") -> None:
    """Call ``condition`` until it is true; a Redis that does not answer yet counts as false.

    Raises:
        AssertionError: It was not within the time.
    """
    deadline = time.monotonic() + within
    said: object = None
    while time.monotonic() < deadline:
        try:
            said = condition()
        except (redis.RedisError, OSError) as error:
            said = error
        else:
            if said:
                return
        time.sleep(0.02)
    raise AssertionError(f"{what or condition} within {within} s, but: {said!r}")


@dataclass
class Server:
    """A server that runs.

    Attributes:
        port: Where it listens.
        process: Its process; kill it, and :meth:`start` it again.
    """

    port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def launch(cls, directory: Path, *options: str, port: int | None = None, sentinel: bool = False) -> Server:
        """Start a server with these command line options; it may not answer yet."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed: apt-get install redis-server"
        port = free_port() if port is None else port
        folder = directory / f"redis-{port}"
        folder.mkdir(parents=True)
        config = folder / "redis.conf"
        config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {folder}", *options, ""]))
        command = [program, str(config), *(["--sentinel"] if sentinel else [])]
        log = folder / "redis.log"
        return cls(port, command, log, cls._spawn(command, log))

    @staticmethod
    def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def start(self) -> None:
        """Start it again, after it was killed."""
        self.process.wait(PATIENCE)
        self.process = self._spawn(self.command, self.log)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def ask(self, *command: str | int) -> object:
        """Send one command on a connection of its own; return the answer as text."""
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=10, protocol=2, retry=once) as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        """Whether it replies to a PING, or says that it wants a login.

        Raises:
            AssertionError: It has ended.
        """
        assert self.process.poll() is None, f"redis-server ended:\n{self.log.read_text()}"
        try:
            return self.ask("PING") is not None
        except redis.AuthenticationError:
            return True


PLAIN = ('save ""', "appendonly no", "repl-diskless-sync-delay 0")


@contextmanager
def plain_server(directory: Path, *options: str, sentinel: bool = False, refuses: bool = False) -> Iterator[Server]:
    """One server (or one sentinel), with further lines of redis.conf.

    With the role's users among them, nothing may have been refused to these at its end: what workers and clients do
    they have the right to do. ``refuses`` is for a server of tests that are about refusals.

    Raises:
        AssertionError: Something was refused; the text says to whom, and what.
    """
    with _all_ended() as servers:
        server = Server.launch(directory, *(() if sentinel else PLAIN), *options, sentinel=sentinel)
        servers.append(server)
        eventually(server.answers, what="the server answers")
        yield server
        guarded = any(option.startswith("user worker ") for option in options)
        if guarded and not refuses and server.process.poll() is None:
            nothing_refused(server)


def nothing_refused(server: Server) -> None:
    """Check that nothing was refused to the role's users since this was checked, or the server was started.

    Raises:
        AssertionError: Something was; the text says to whom, and what.
    """
    found = refusals(server.ask("ACL", "LOG"))  # type: ignore[arg-type]
    server.ask("ACL", "LOG", "RESET")
    assert not found, "refused:\n" + "\n".join(found)


@dataclass
class Certificates:
    """PEM files: an authority, and a certificate for 127.0.0.1 and localhost that it signed."""

    ca: Path
    cert: Path
    key: Path

    @property
    def options(self) -> dict[str, str]:
        """The options of a URL (and of redis-py) that use them."""
        return {"ssl_ca_certs": str(self.ca), "ssl_certfile": str(self.cert), "ssl_keyfile": str(self.key)}

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make them anew."""
        import trustme

        directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        files = cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
        authority.cert_pem.write_to_path(str(files.ca))
        issued.cert_chain_pems[0].write_to_path(str(files.cert))
        issued.private_key_pem.write_to_path(str(files.key))
        return files


@contextmanager
def tls_server(directory: Path, certificates: Certificates) -> Iterator[Server]:
    """A server that speaks TLS only and wants the client's certificate too. Its plain port is off: ``ask`` fails."""
    port = free_port()
    with _all_ended() as servers:
        server = Server.launch(
            directory,
            *PLAIN,
            "port 0",
            f"tls-port {port}",
            f"tls-cert-file {certificates.cert}",
            f"tls-key-file {certificates.key}",
            f"tls-ca-cert-file {certificates.ca}",
            "tls-auth-clients yes",
        )
        server.port = port
        servers.append(server)

        def answers() -> bool:
            assert server.process.poll() is None, f"redis-server ended:\n{server.log.read_text()}"
            files = {
                "ssl_ca_certs": certificates.ca,
                "ssl_certfile": certificates.cert,
                "ssl_keyfile": certificates.key,
            }
            texts = {name: str(path) for name, path in files.items()}
            with redis.Redis(port=port, host="127.0.0.1", ssl=True, **texts) as client:
                return bool(client.ping())

        eventually(answers, what="the TLS server answers")
        yield server


@dataclass
class SentinelTrio:
    """Three sentinels that watch a master and its replica."""

    sentinels: list[Server]
    servers: list[Server]

    @property
    def url(self) -> str:
        """The URL by which it is reached."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def master_port(self) -> int:
        """Return the port of the master, as the first sentinel that answers says."""
        for sentinel in self.sentinels:
            if sentinel.process.poll() is None:
                [_, port] = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)  # type: ignore[misc]
                return int(port)
        raise AssertionError("no sentinel is alive")

    def master(self) -> Server:
        """Return the master."""
        port = self.master_port()
        [server] = [server for server in self.servers if server.port == port]
        return server

    def healthy(self) -> bool:
        """Whether one is master, the other its replica in step, and all sentinels agree and know each other."""
        for server in self.servers:
            if server.process.poll() is not None:
                server.start()
        master = self.master()
        [other] = [server for server in self.servers if server is not master]
        role = other.ask("ROLE")
        agreed = all(sentinel.ask("SENTINEL", "CKQUORUM", SERVICE) for sentinel in self.sentinels)
        seen = [
            dict(zip(row[::2], row[1::2], strict=True))["flags"]
            for sentinel in self.sentinels
            for row in sentinel.ask("SENTINEL", "REPLICAS", SERVICE)  # type: ignore[attr-defined]
        ]
        knows = seen == ["slave"] * len(self.sentinels)
        return agreed and knows and role[0] == "slave" and role[3] == "connected"  # type: ignore[index]


@contextmanager
def sentinel_trio(directory: Path, *options: str) -> Iterator[SentinelTrio]:
    """Three sentinels, a master and a replica, that know each other; with further lines of redis.conf."""
    with _all_ended() as servers:
        master = Server.launch(directory, *PLAIN, *options)
        servers.append(master)
        eventually(master.answers, what="the master answers")
        replica = Server.launch(directory, *PLAIN, *options, f"replicaof 127.0.0.1 {master.port}")
        servers.append(replica)
        down_after = round(DOWN_AFTER_MS * slowness())
        sentinels = [
            Server.launch(
                directory,
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} {down_after}",
                f"sentinel failover-timeout {SERVICE} {3 * down_after}",
                sentinel=True,
            )
            for _ in range(3)
        ]
        servers.extend(sentinels)
        trio = SentinelTrio(sentinels, [master, replica])
        eventually(trio.healthy, what="sentinels and servers know each other")
        yield trio


@dataclass
class Cluster:
    """Three masters with a replica each (or the other way round, after a failover)."""

    nodes: list[Server]

    @property
    def url(self) -> str:
        """The URL by which it is reached: two nodes, from which the others are learnt."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[3].port}"

    def _alive(self) -> Server:
        """Return a node that runs; one that a test has stopped (SIGSTOP) does not answer."""
        return next(
            node
            for node in self.nodes
            if node.process.poll() is None and psutil.Process(node.process.pid).status() != psutil.STATUS_STOPPED
        )

    def master_of(self, key: str) -> Server:
        """Return the node that holds a key."""
        asked = self._alive()
        slot = int(asked.ask("CLUSTER", "KEYSLOT", key))  # type: ignore[call-overload]
        for first, last, master, *_ in asked.ask("CLUSTER", "SLOTS"):  # type: ignore[attr-defined]
            if first <= slot <= last:
                [node] = [node for node in self.nodes if node.port == master[1]]
                return node
        raise AssertionError(f"nobody holds slot {slot}")

    def healthy(self) -> bool:
        """Whether every node is up and says ok, and every master has a replica in step."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.start()
        for node in self.nodes:
            text = str(node.ask("CLUSTER", "INFO"))
            rows = str(node.ask("CLUSTER", "NODES")).splitlines()
            if "cluster_state:ok" not in text or len(rows) != 6 or "fail" in "".join(row.split()[2] for row in rows):
                return False
            role = node.ask("ROLE")
            if role[0] == "master" and not role[2]:  # type: ignore[index]
                return False
            if role[0] == "slave" and role[3] != "connected":  # type: ignore[index]
                return False
        return True

    def flush(self) -> None:
        """Empty every master."""
        for node in self.nodes:
            if node.ask("ROLE")[0] == "master":  # type: ignore[index]
                node.ask("FLUSHALL")


@contextmanager
def cluster_of_six(directory: Path) -> Iterator[Cluster]:
    """Six nodes, joined: three masters, three replicas."""
    with _all_ended() as servers:
        nodes, down_after = [], round(DOWN_AFTER_MS * slowness())
        for _ in range(6):
            port, bus = free_port(), free_port()
            nodes.append(
                Server.launch(
                    directory,
                    *PLAIN,
                    "cluster-enabled yes",
                    "cluster-config-file nodes.conf",
                    f"cluster-port {bus}",
                    f"cluster-node-timeout {down_after}",
                    "cluster-replica-validity-factor 0",
                    "cluster-announce-ip 127.0.0.1",
                    port=port,
                )
            )
        servers.extend(nodes)
        for node in nodes:
            eventually(node.answers, what="a node answers")
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        made = subprocess.run(create, capture_output=True, text=True, timeout=60, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        cluster = Cluster(nodes)
        eventually(cluster.healthy, what="the cluster is whole")
        yield cluster


@contextmanager
def _all_ended() -> Iterator[list[Server]]:
    servers: list[Server] = []
    with ExitStack() as stack:
        stack.callback(lambda: [server.kill() for server in servers])
        yield servers
