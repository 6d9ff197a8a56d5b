"""The deploy lock, a key in Redis with a time to live: one deploy at a time.

Usage: deploy_lock.py take SECONDS RECORD [TOKEN]    RECORD: who deploys, as JSON with a "token" of the run
       deploy_lock.py release TOKEN
       deploy_lock.py show
Taking what is ours already renews it. With TOKEN it is also taken from the run of that token, or with * from anybody.
Releasing what is not ours does nothing.

The key is NAMESPACE:deploy, with the environment's ORBITER_NAMESPACE, or orbiter without one.

Prints JSON. state: "held" (by us, now), "busy" (somebody else has it), "free", or "absent" (no Redis here to ask)
reason: why it is absent · holder: the record of who has it, or null · who: the same as words

Runs on a Redis host and speaks to that Redis, or to the master that it follows. The password comes from the file that
the role `redis` keeps for such scripts, and goes on by environment: no command line and no log has it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIG = Path(os.environ.get("ORBITER_REDIS_CONFIG", "/etc/redis/redis.conf"))
# Where the role `redis` keeps it for such scripts: the configuration has none, as the users are in a file of their own.
PASSWORD = CONFIG.with_name("admin.password")
KEY = f"{os.environ.get('ORBITER_NAMESPACE', 'orbiter')}:deploy"

# KEYS: the lock. ARGV: step, record, milliseconds, tokens from whom it may be taken.
# Returns state, record or "", age and rest in milliseconds.
SCRIPT = """
local held = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, holder = pcall(cjson.decode, held or '')
known = known and type(holder) == 'table' and type(holder.since) == 'number'  -- else somebody else has written there
local ours = false
for place = 4, #ARGV do
  if ARGV[place] == '*' or known and holder.token == ARGV[place] then ours = true end
end
local function said(state)
  if not held then return {state, '', 0, 0} end
  return {state, held, known and now - holder.since or 0, redis.call('PTTL', KEYS[1])}
end
if ARGV[1] == 'show' then
  return said(held and 'busy' or 'free')
end
if ARGV[1] == 'release' then
  local answer = said((not held or ours) and 'free' or 'busy')
  if held and ours then redis.call('DEL', KEYS[1]) end
  return answer
end
if held and not ours then
  return said('busy')
end
local record = cjson.decode(ARGV[2])
local renewed = known and holder.token == record.token
record.since = renewed and holder.since or now
held, known, holder = cjson.encode(record), true, record
redis.call('SET', KEYS[1], held, 'PX', ARGV[3])
return said('held')
"""


class NoAnswerError(Exception):
    """There is no Redis that answers."""


def settings() -> dict[str, str]:
    """Return what the server was started with; of a setting that is there twice, the last."""
    try:
        lines = [line.strip() for line in CONFIG.read_text().splitlines()]
    except FileNotFoundError:
        raise NoAnswerError(f"there is no {CONFIG}") from None
    parts = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {name: unquote(value.strip()) for name, dummy, value in parts}


def unquote(value: str) -> str:
    """Return what redis.conf means by a value in double quotes."""
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == value[-1:] == '"' and len(value) > 1 else value


class Redis:
    """The server of this host, by redis-cli."""

    def __init__(self, found: dict[str, str]) -> None:
        self._settings = found
        self._tls = found.get("port") == "0" and "unixsocket" not in found
        port = found["tls-port"] if self._tls else found.get("port", "6379")
        self._place = ["-s", found["unixsocket"]] if "unixsocket" in found else ["-h", "127.0.0.1", "-p", port]
        password = PASSWORD.read_text().removesuffix("\n") if PASSWORD.exists() else found.get("requirepass")
        self._environment = os.environ | ({"REDISCLI_AUTH": password} if password else {})

    def ask(self, *words: str) -> list[object]:
        """Send one command; return its answer, a list."""
        try:
            done = subprocess.run(
                ["redis-cli", "--no-auth-warning", "-e", "--json", *self._certificates(), *self._place, *words],
                capture_output=True,
                text=True,
                check=False,
                env=self._environment,
                timeout=30,
            )
        except FileNotFoundError:
            raise NoAnswerError("redis-cli is not installed") from None
        except subprocess.TimeoutExpired:
            raise NoAnswerError("Redis does not answer") from None
        said = (done.stdout or done.stderr).strip()
        if done.returncode:
            raise NoAnswerError(f"Redis says: {(done.stderr or done.stdout).strip()}")
        answer = json.loads(said)
        if not isinstance(answer, list):
            raise NoAnswerError(f"Redis says: {answer}")
        return answer

    def follow(self) -> None:
        """Go to the master, if this server is a replica: only that one may be written to."""
        role = self.ask("role")
        if role[0] == "slave":
            self._place = ["-h", str(role[1]), "-p", str(role[2])]
            self._tls = self._settings.get("tls-replication") == "yes"

    def _certificates(self) -> list[str]:
        names = {"--cacert": "tls-ca-cert-file", "--cert": "tls-cert-file", "--key": "tls-key-file"}
        given = [(option, self._settings[name]) for option, name in names.items() if name in self._settings]
        return ["--tls", *(word for pair in given for word in pair)] if self._tls else []


def read(held: str) -> dict[str, Any]:
    """Return a record; one that somebody else wrote may be anything."""
    try:
        record = json.loads(held)
    except ValueError:
        return {}
    known = isinstance(record, dict) and isinstance(record.get("since"), int | float)
    return record if known else {}


def words_of(holder: dict[str, Any], age: int, left: int) -> str:
    """Say who has the lock, since when and for how long."""
    names = {name: holder.get(name, "?") for name in ("playbook", "user", "controller", "pid")}
    since = datetime.fromtimestamp(holder.get("since", 0) / 1000, tz=UTC)
    return (
        "{playbook} by {user}@{controller} (process {pid})".format(**names)
        + f" since {since:%Y-%m-%d %H:%M:%S} UTC, {age} s ago; the lock ends by itself in {left} s"
    )


def main() -> None:
    """Do one step and tell the outcome."""
    step, *words = sys.argv[1:]
    record, milliseconds, tokens = "", "0", words
    if step == "take":
        seconds, record, *tokens = words
        milliseconds = str(int(float(seconds) * 1000))
        tokens = [json.loads(record)["token"], *tokens]
    try:
        redis = Redis(settings())
        redis.follow()
        state, held, age, left = redis.ask("eval", SCRIPT, "1", KEY, step, record, milliseconds, *tokens)
    except NoAnswerError as error:
        print(json.dumps({"state": "absent", "reason": str(error), "holder": None, "who": ""}))
        return
    holder, who = None, ""
    if held:
        holder = read(str(held))
        who = words_of(holder, int(str(age)) // 1000, int(str(left)) // 1000)
    print(json.dumps({"state": state, "reason": "", "holder": holder, "who": who}))


main()
