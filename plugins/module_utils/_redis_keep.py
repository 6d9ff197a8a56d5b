# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Redis holds goes to its files, where it is found after a restart; and a foreign Redis becomes the fleet's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_host
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import LOG, SERVER, NoAnswerError, RedisError
from ansible_collections.orbiter.fleet.plugins.module_utils._wait import NotInTimeError, wait_until

DROP_INS = Path(f"/etc/systemd/system/{_redis_host.UNIT}.d")


class KeepError(Exception):
    """What Redis holds could not be written to its files."""


# What any of these functions may raise, in the words of whoever could not do it.
FAILURES = (KeepError, NotInTimeError, RedisError, NoAnswerError, OSError)


def running():
    """Return a connection to the server, which is started with its own settings if it does not run."""
    if _redis_host.unit()["MainPID"] == "0":
        done = subprocess.run(
            ["systemctl", "start", _redis_host.UNIT],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KeepError(f"Redis does not start as it is: {done.stderr.strip()}. See journalctl -u {SERVER}")
    redis = _redis_host.connect(_redis_host.unit()["MainPID"])
    wait_until(lambda: redis.info("persistence")["loading"] == "0", "Redis does not come to an end of loading its data")
    return redis


def save(redis):
    """Have Redis write its RDB file, and wait until it has."""

    def persistence():
        return redis.info("persistence")

    wait_until(lambda: persistence()["rdb_bgsave_in_progress"] == "0", "Another BGSAVE does not end")
    saves = int(persistence().get("rdb_saves", "-1"))
    redis.ask("BGSAVE", "SCHEDULE")  # after a rewrite of the AOF, if there is one

    def ended():
        info = persistence()
        failed = info["rdb_last_bgsave_status"] != "ok"
        return info["rdb_bgsave_in_progress"] == "0" and (failed or int(info.get("rdb_saves", "0")) > saves)

    wait_until(ended, "BGSAVE does not end")
    if persistence()["rdb_last_bgsave_status"] != "ok":
        raise KeepError(f"BGSAVE failed: see {LOG}. Often the disk is full, or memory short for a fork")


def write_aof(redis):
    """Have Redis write what it holds to the AOF, and wait until it is there; if it fails, the AOF is off again."""
    was = _redis_host.setting(redis, "appendonly")

    def is_written():
        info = redis.info("persistence")
        return (info["aof_rewrite_in_progress"], info["aof_rewrite_scheduled"]) == ("0", "0")

    try:
        redis.ask("CONFIG", "SET", "appendonly", "yes")
        wait_until(is_written, "The AOF is not written")
        if redis.info("persistence")["aof_last_bgrewrite_status"] != "ok":
            raise KeepError("it cannot write its AOF: see its log. Often the disk is full, or memory short for a fork")
    except BaseException:
        redis.ask("CONFIG", "SET", "appendonly", was)
        raise


def adopt(wanted, name):
    """Keep the files of a foreign Redis in a folder beside its data, and have it write its AOF.

    Returns:
        (its number of keys, the folder).
    """
    with running() as redis:
        seen = _redis_host.look_at_redis(wanted)
        if seen["hurdles"]:
            raise KeepError("; ".join(seen["hurdles"]))
        aside = _redis_host.DATA / name
        aside.mkdir(mode=0o700)
        try:
            shutil.copytree(str(_redis_host.ETC), str(aside / "etc"))
            if DROP_INS.exists():
                shutil.copytree(str(DROP_INS), str(aside / DROP_INS.name))
            save(redis)
            # Redis writes the next one as another file and renames it: this one stays as it is.
            os.link(_redis_host.DATA / _redis_host.setting(redis, "dbfilename"), aside / "dump.rdb")
            write_aof(redis)
        except BaseException:
            shutil.rmtree(str(aside))
            raise
        return sum(_redis_host.databases(redis, wanted).values()), str(aside)
