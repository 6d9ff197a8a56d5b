"""Measure how long a deployment takes that changes nothing, for fleets of several sizes.

    python benchmarks/deploy.py [--sizes 2 6 10] [--rounds 3] [--keep]

Makes test hosts, containers with systemd on a network of their own (ORBITER_TEST_NET and ORBITER_TEST_NAME name it),
deploys a fleet of the largest size, and measures for each size, with as many of the hosts: site.yml where nothing is to
change, scale.yml with one instance more on one host, and on every host. Prints the medians as a Markdown table, what
a host more costs, and how busy the machine was; removes the hosts. Needs what `make demo` needs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PLUGINS = f"{CHECKOUT}/molecule/plugins/callback:{CHECKOUT}/plugins/callback"


def inventory(folder: Path, workers: int) -> Path:
    """Write an inventory of one Redis host and some worker hosts; return its path."""
    net = os.environ.get("ORBITER_TEST_NET", "172.28.77")
    name = os.environ.get("ORBITER_TEST_NAME", "benchmark")
    directory = str(folder / "key")
    every = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": f"{directory}/id_ed25519",
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        "testhost_label": name,
        "testhost_network": f"orbiter-{name}",
        "testhost_subnet": f"{net}.0/24",
        "testhost_directory": directory,
        "testhost_suite": "bookworm",
        "orbiter_redis_password": "of a benchmark only",
        "worker_instances": 1,
        "worker_extras": [],  # half as much to build and install
    }
    hosts = {f"worker{number}": {"ansible_host": f"{net}.{10 + number}"} for number in range(1, workers + 1)}
    groups = {
        "redis": {"hosts": {"redis1": {"ansible_host": f"{net}.10", "redis_bind": f"{net}.10"}}},
        "workers": {"hosts": hosts},
        "testhosts": {"children": {"redis": {}, "workers": {}}, "vars": every},
    }
    path = folder / f"{workers}.json"
    path.write_text(json.dumps({"all": {"children": groups}}))
    return path


def play(hosts: Path, playbook: str, *options: str, count: Path | None = None) -> float:
    """Run a playbook; return the seconds it took, and end the program with its output if it fails."""
    collections = str(CHECKOUT / ".cache/collections")
    environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": collections}
    if count:
        environment |= {"ANSIBLE_CALLBACK_PLUGINS": PLUGINS, "ANSIBLE_CALLBACKS_ENABLED": "remote_tasks"}
        environment["ORBITER_REMOTE_TASKS"] = str(count)
    began = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", "--inventory", str(hosts), playbook, *options],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout)
    return time.monotonic() - began


def measure(folder: Path, size: int, rounds: int) -> dict[str, float]:
    """Return what is measured for one size."""
    hosts, count = inventory(folder, size), folder / "count.json"
    play(hosts, "site.yml", count=count)  # connections are warm from here on
    site, one, every = [], [], []
    for _ in range(rounds):
        site.append(play(hosts, "site.yml"))
        one.append(play(hosts, "playbooks/scale.yml", "--limit=worker1", "--extra-vars=instances=2"))
        play(hosts, "playbooks/scale.yml")
        every.append(play(hosts, "playbooks/scale.yml", "--extra-vars=instances=2"))
        play(hosts, "playbooks/scale.yml")
    counted = json.loads(count.read_text())
    # The first host does what runs once as well.
    ran, ended = (
        max(len(counted[kind][f"worker{host}"]) for host in range(min(2, size), size + 1))
        for kind in ("remote", "results")
    )
    return {
        "hosts": size,
        "tasks": ran,
        "results": ended,
        "site": statistics.median(site),
        "one": statistics.median(one),
        "every": statistics.median(every),
    }


def main() -> None:
    """Make the hosts, measure, remove them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 6, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the hosts there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orbiter-benchmark-") as scratch:
        folder = Path(scratch)
        every = inventory(folder, max(args.sizes))
        try:
            print("making the hosts", file=sys.stderr)
            play(every, "playbooks/demo_up.yml")
            first = play(every, "site.yml")
            print(f"first deployment to {max(args.sizes)} hosts: {first:.0f} s", file=sys.stderr)
            rows = [measure(folder, size, args.rounds) for size in args.sizes]
        finally:
            if not args.keep:
                play(every, "playbooks/demo_down.yml")
    print(
        "| worker hosts | remote tasks a host | results a host | site.yml, no change | one instance more on one host "
        "| on every host |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| {hosts} | {tasks} | {results} | {site:.1f} s | {one:.1f} s | {every:.1f} s |".format(**row))
    if len(rows) > 1:
        slope, base = statistics.linear_regression([row["hosts"] for row in rows], [row["site"] for row in rows])
        print(f"\nsite.yml, no change: {base:.1f} s, and {slope:.2f} s a worker host")
    print(
        f"load of the machine, which has {os.cpu_count()} cores: {', '.join(f'{one:.1f}' for one in os.getloadavg())}"
    )


if __name__ == "__main__":
    main()
