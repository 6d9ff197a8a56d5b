"""An operator reads the logs, runs one command with the workers' settings, and has hooks run around a deploy.

Three runs of playbooks, as each costs the daily run seconds.
"""

from __future__ import annotations

import re

from fleet import QUEUE

# Who runs it, what it has, and that it can ask Redis by it. What it prints of secrets must not be seen.
COMMAND = """
echo "user $(id --user --name):$(id --group --name) program $(command -v orbiter) folder $(pwd)"
test -r "$TASK_CREDENTIALS_DIRECTORY/client.pem" && echo "has credentials"
touch /var/lib/orbiter/made /etc/made 2>/dev/null || echo "cannot write"
orbiter queue info --json
cat "$TASK_CREDENTIALS_DIRECTORY/client.pem"
echo "$ORBITER_REDIS_URL" "$TEST_OLD_KEY"
exit 3
"""
OWNER = "stat --format=%U /var/lib/orbiter"


def test_one_command_runs_with_the_workers_settings_and_shows_none_of_their_secrets(play, workers):
    done = play("playbooks/exec.yml", exec_command=["sh", "-c", COMMAND], exec_all=True)
    assert done.returncode == 2
    # systemd of Debian 12, and of 13.
    for name, host in workers.items():
        said = [row.removeprefix(f"{name}: ") for row in done.stdout.splitlines() if row.startswith(f"{name}: ")]
        assert "user orbiter-command:orbiter program /opt/orbiter/current/bin/orbiter folder /" in said
        assert {"has credentials", "cannot write"} <= set(said)
        assert any(f'"{QUEUE}"' in row for row in said)
        assert any(row.endswith("ended with exit code 3") for row in said)
        assert host.check_output(OWNER) == "orbiter"
        assert host.check_output("systemctl list-units --all --plain --no-legend 'orbiter-exec-*'") == ""
    shown = done.stdout + done.stderr
    # The password stands in the URL percent-encoded.
    assert [secret for secret in ("w0rker", "0ld k3y", "m0re than one line") if secret in shown] == []


def test_logs_show_what_the_instances_say_of_a_task(play, fleet):
    [task_id] = fleet.submit([0])
    fleet.wait_until_done([task_id], within=60)
    done = play("playbooks/logs.yml", "--check", logs_task=task_id, logs_since="10 min ago")
    assert done.returncode == 0
    lines = [row for row in done.stdout.splitlines() if task_id in row]
    assert len(lines) >= 2  # it has started, and ended
    assert all(re.match(r"[-0-9]{10} [:.0-9]{12} worker\d/\d  INFO +\S", row) for row in lines), lines
    times = [row[:23] for row in lines]
    assert times == sorted(times)
    assert not fleet.redis.exists("orbiter:deploy")


def test_a_failing_hook_stops_a_deploy_before_it_changes_anything_and_the_end_is_told(play, fleet, tmp_path):
    told = tmp_path / "told"
    tell = f'echo "$ORBITER_HOOK $ORBITER_OUTCOME $ORBITER_PLAYBOOK $ORBITER_HOSTS" >>{told}'
    before = len(fleet.instances())
    done = play(
        "playbooks/rolling_update.yml",
        orbiter_hooks_before_deploy=[tell, ["false"]],
        orbiter_hooks_after_failure=[tell],
        orbiter_hooks_after_deploy=["touch wrong"],
    )
    assert done.returncode == 2
    assert "before_deploy hook 2 (false) ended with exit code 1" in " ".join(done.stdout.split())
    assert "changed: [" not in done.stdout
    everybody = "rolling_update redis1,worker1,worker2"
    assert told.read_text().splitlines() == [f"before_deploy began {everybody}", f"after_failure failed {everybody}"]
    assert len(fleet.instances()) == before
    # Others may deploy, and see what became of it.
    assert not fleet.redis.exists("orbiter:deploy")
    [(_entry, last)] = fleet.redis.xrevrange("orbiter:deploys", count=1)
    assert (last["playbook"], last["outcome"]) == ("rolling_update", "failed")
