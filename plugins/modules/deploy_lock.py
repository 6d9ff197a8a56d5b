#!/usr/bin/python
# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Take the deploy lock, show it, or give it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lock
short_description: One deploy at a time, by a key in Redis with a time to live
version_added: 0.2.0
description:
  - Takes the lock, gives it back, or shows who has it. Taking what is ours already renews it.
  - Whoever takes it, and gives it back, is written down in a stream of the last deploys. C(orbiter dashboard) shows it.
  - Runs on a Redis host, and speaks to that Redis, or to the master that it follows, with the password that the role
    P(orbiter.fleet.redis#role) keeps there for such programs.
  - It never fails because somebody else has the lock, or because there is no Redis. It says so.
author: Orbiter Fleet authors (@orbiter-fleet)
options:
  state:
    description:
      - With V(held) the run has the lock afterwards, if nobody else has it. With V(free) it has given it back; what is
        not its own stays.
      - With V(shown) nothing is done.
    type: str
    choices: [held, free, shown]
    default: held
  run:
    description: Who deploys, as P(orbiter.fleet.deployer#lookup) describes it. Required unless O(state=shown).
    type: dict
  seconds:
    description: How long the lock is held at most, from the last time it was taken.
    type: float
    default: 3600
  take_from:
    description: Tokens of runs from whom it may be taken. V(*) is anybody.
    type: list
    elements: str
    default: []
  release:
    description: The release that the run brings, for the stream of deploys.
    type: str
    default: ""
  outcome:
    description: What became of the run, for the stream of deploys. Used with O(state=free).
    type: str
    choices: [ended, failed]
    default: ended
  noted:
    description: Whether the run is written down in the stream of deploys, its beginning and its end.
    type: bool
    default: true
  deploys:
    description: How many of the last deploys to return.
    type: int
    default: 0
  namespace:
    description: First word of the lock's key, and of the stream's.
    type: str
    default: orbiter
  config:
    description:
      - The settings that Redis was started with. The operator's password is beside it.
      - Of Valkey they are C(/etc/valkey/valkey.conf) by default.
    type: path
    default: /etc/redis/redis.conf
attributes:
  check_mode:
    description: Tells who has it, and takes nothing.
    support: full
  diff_mode:
    description: Shows who had it and who has it.
    support: full
"""

EXAMPLES = r"""
- name: Take the deploy lock
  orbiter.fleet.deploy_lock:
    run: "{{ lookup('orbiter.fleet.deployer') }}"
  register: lock
  failed_when: lock.state == 'busy'

- name: Say who deploys
  orbiter.fleet.deploy_lock:
    state: shown
  register: lock

- name: Give it back
  orbiter.fleet.deploy_lock:
    state: free
    run: "{{ lookup('orbiter.fleet.deployer') }}"
"""

RETURN = r"""
state:
  description:
    - V(held) if the run has it, V(busy) if somebody else has, V(free) if nobody has, V(absent) if there is no Redis to
      ask.
  returned: always
  type: str
  sample: held
reason:
  description: Why it is absent.
  returned: always
  type: str
  sample: there is no /etc/redis/redis.conf yet
holder:
  description: The record of who has it, and since when in milliseconds, or null.
  returned: always
  type: dict
who:
  description: The same as words.
  returned: always
  type: str
  sample: >-
    site by alice@laptop (process 17) since 2026-02-17 10:30:15 UTC, 5 s ago; the lock ends by itself in 3595 s
deploys:
  description:
    - The last deploys, the newest first, with times in epoch seconds. The outcome is V(ended), V(failed),
      V(interrupted) if another one began before its end was known, or empty while nothing is known of its end.
  returned: where Redis answers
  type: list
  elements: dict
  sample:
    - began: 1771324215.25
      ended: 1771324300.5
      playbook: rolling_update
      user: alice
      controller: laptop
      release: 0.2.0-1f2e3d4c
      outcome: ended
"""

import json
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    ETC,
    FLAVOR,
    NoAnswerError,
    Redis,
    RedisError,
    admin_passwords,
    tls_context,
    written_settings,
)

# KEYS: the lock, the stream of deploys. ARGV: step, record, milliseconds, release, outcome, whether it is noted, tokens
# from whom it may be taken.
# Returns state, record or "", age and rest in milliseconds, who had it before or "".
SCRIPT = """
local held = redis.call('GET', KEYS[1])
local before = held or ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, holder = pcall(cjson.decode, held or '')
known = known and type(holder) == 'table' and type(holder.since) == 'number'  -- else somebody else has written there
local mine = ARGV[2] ~= '' and cjson.decode(ARGV[2]).token
local ours, may = known and holder.token == mine, false
for place = 7, #ARGV do
  if ARGV[place] == '*' or known and holder.token == ARGV[place] then may = true end
end
-- One row as a run begins, one as it ends. No lock depends on it.
local function note(run, outcome)
  local row = {}
  for _, field in ipairs({'token', 'user', 'controller', 'playbook'}) do
    row[#row + 1] = field
    row[#row + 1] = string.sub(tostring(run[field] or ''), 1, 200)
  end
  redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'outcome', outcome, 'release', string.sub(ARGV[4], 1, 200),
    unpack(row))
end
local function said(state)
  if not held then return {state, '', 0, 0, before} end
  return {state, held, known and now - holder.since or 0, redis.call('PTTL', KEYS[1]), before}
end
if ARGV[1] == 'free' and held and ours then
  redis.call('DEL', KEYS[1])
  if holder.noted then note(holder, ARGV[5]) end
  held, ours = false, false
elseif ARGV[1] == 'held' and (not held or ours or may) then
  local record = cjson.decode(ARGV[2])
  record.since = ours and holder.since or now
  record.noted = ARGV[6] == '1'
  if ours then
    record.noted = holder.noted
  elseif record.noted then
    note(record, 'began')
  end
  held, known, holder, ours = cjson.encode(record), true, record, true
  redis.call('SET', KEYS[1], held, 'PX', ARGV[3])
end
return said(ours and 'held' or held and 'busy' or 'free')
"""


def connect(config: str) -> Redis:
    """Return a connection to this host's Redis, or to its master: only that one may be written to."""
    if not Path(config).exists():
        raise NoAnswerError(f"there is no {config} yet")
    found = written_settings(config)
    tls = found.get("port") == "0" and "unixsocket" not in found
    port = int(found["tls-port"] if tls else found.get("port", "6379"))
    logins = [{"password": password} for password in admin_passwords(Path(config).parent)]
    # The role's has a user of its own for us. The package's has none, and whoever else made one may have requirepass.
    logins += [{"password": found["requirepass"], "user": None}] if "requirepass" in found else []
    redis, login = log_in(found.get("unixsocket") or ("127.0.0.1", port), [*logins, {}], found, tls=tls)
    role = redis.ask("ROLE")
    if role[0] != "slave":
        return redis
    # As it follows it now: in the middle of a move to TLS the file may say otherwise.
    tls = redis.settings("tls-replication").get("tls-replication") == "yes"
    redis.close()
    return log_in((role[1], role[2]), [login], found, tls=tls)[0]


def last_deploys(redis: Redis, key: str, count: int) -> list[dict]:
    """Return the last deploys that the stream has, the newest first; nothing where it is none."""
    if count < 1:
        return []
    try:
        # A run writes its beginning and its end.
        rows = redis.ask("XREVRANGE", key, "+", "-", "COUNT", 2 * count)
    except RedisError:
        return []
    pairs = [(entry, dict(zip(words[::2], words[1::2], strict=True))) for entry, words in reversed(rows)]
    return together(pairs)[::-1][:count]


def together(rows: list[tuple[str, dict[str, str]]]) -> list[dict]:
    """Put the rows of the stream together, the oldest first, as `orbiter dashboard` does.

    One deploys at a time: a run that has not said that it ended when another one began was interrupted.
    """
    found: list[dict] = []
    for entry, fields in rows:
        at, outcome, token = int(entry.partition("-")[0]) / 1000, fields.get("outcome", ""), fields.get("token", "")
        last = found[-1] if found else None
        if outcome != "began" and last and last["token"] == token and last["ended"] is None:
            last.update(ended=at, outcome=outcome, release=fields.get("release", "") or last["release"])
            continue
        if last and last["ended"] is None and not last["outcome"]:
            last["outcome"] = "interrupted"
        known = {name: fields.get(name, "") for name in ("playbook", "user", "controller", "release")}
        begins = outcome == "began"
        known |= {"began": at, "ended": None, "outcome": ""} if begins else {"began": None, "ended": at}
        found.append({"token": token, "outcome": outcome or "ended"} | known)
    return found


def log_in(place, logins: list[dict], found: dict[str, str], *, tls: bool) -> tuple[Redis, dict]:
    """Return a connection that was let in, and with what."""
    names = ("tls-ca-cert-file", "tls-cert-file", "tls-key-file")
    context = tls_context(*map(found.get, names)) if tls else None
    for number, login in enumerate(logins, 1):
        redis = None
        try:
            redis = Redis(place, tls=context, **login)
            redis.ask("PING")
        except RedisError:
            if redis:
                redis.close()
            if number == len(logins):
                raise
        else:
            return redis, login
    raise NoAnswerError("there is nothing to log in with")


def read(held: str) -> dict:
    """Return a record; one that somebody else wrote may be anything."""
    try:
        record = json.loads(held)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("since"), (int, float)) else {}


def name(holder: dict) -> str:
    """Say whose run it is."""
    known = {key: holder.get(key, "?") for key in ("playbook", "user", "controller", "pid")}
    return "{playbook} by {user}@{controller} (process {pid})".format(**known)


def words_of(holder: dict, age: int, left: int) -> str:
    """Say who has the lock, since when and for how long."""
    since = datetime.fromtimestamp(holder.get("since", 0) / 1000, tz=timezone.utc)
    return f"{name(holder)} since {since:%Y-%m-%d %H:%M:%S} UTC, {age} s ago; the lock ends by itself in {left} s"


def main() -> None:
    """Do one step and tell the outcome."""
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["held", "free", "shown"], "default": "held"},
            "run": {"type": "dict"},
            "seconds": {"type": "float", "default": 3600},
            "take_from": {"type": "list", "elements": "str", "default": []},
            "release": {"default": ""},
            "outcome": {"choices": ["ended", "failed"], "default": "ended"},
            "noted": {"type": "bool", "default": True},
            "deploys": {"type": "int", "default": 0},
            "namespace": {"default": "orbiter"},
            "config": {"type": "path", "default": str(ETC / f"{FLAVOR}.conf")},
        },
        required_if=[("state", "held", ["run"]), ("state", "free", ["run"])],
        supports_check_mode=True,
    )
    options = module.params
    wanted, run = options["state"], options["run"]
    if run is not None and not run.get("token"):
        module.fail_json(
            msg="run has no token, which tells this deploy from others: set run to what the lookup "
            "orbiter.fleet.deployer returns"
        )
    words = [json.dumps(run) if run else "", str(int(options["seconds"] * 1000))]
    words += [options["release"], options["outcome"], str(int(options["noted"])), *options["take_from"]]
    keys = [f"{options['namespace']}:{name}" for name in ("deploy", "deploys")]
    step = "shown" if module.check_mode else wanted
    try:
        with connect(options["config"]) as redis:
            answer = redis.ask("EVAL", SCRIPT, len(keys), *keys, step, *words)
            deploys = last_deploys(redis, keys[1], options["deploys"])
    except (NoAnswerError, RedisError) as error:
        reason = f"Redis says: {error}" if isinstance(error, RedisError) else str(error)
        module.exit_json(changed=False, state="absent", reason=reason, holder=None, who="")
    state, held, age, left, before = answer
    holder = read(held) if held else None
    had, has = (name(read(text)) + "\n" if text else "" for text in (before, held))
    if module.check_mode and wanted != "shown":
        may = (
            holder is None
            or "*" in options["take_from"]
            or holder.get("token") in [run["token"], *options["take_from"]]
        )
        has = (name(run) + "\n" if may else had) if wanted == "held" else "" if state == "held" else had
    module.exit_json(
        changed=had != has,
        state=state,
        reason="",
        holder=holder,
        who=words_of(holder, age // 1000, left // 1000) if holder is not None else "",
        deploys=[{name: value for name, value in one.items() if name != "token"} for one in deploys],
        diff={"before": had, "after": has, "before_header": "deploy lock", "after_header": "deploy lock"},
    )


if __name__ == "__main__":
    main()
