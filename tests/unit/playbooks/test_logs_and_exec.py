"""logs and exec say what they show and run, and refuse where there is nothing to run on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
LOCAL = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
HOSTS = (f"redis1 {LOCAL}", f"w1 {LOCAL}", f"w2 {LOCAL}", "[redis]", "redis1", "[workers]", "w1", "w2")


@pytest.fixture
def run(ansible):
    """Return a function that runs the playbook exec; it gives its exit code, and what was said on one line."""

    def exec_(*options, hosts=HOSTS):
        done = ansible(hosts, CHECKOUT / "playbooks/exec.yml", *options)
        return done.returncode, " ".join(done.stdout.split())

    return exec_


COMMAND = "--extra-vars={'exec_command': 'orbiter queue info'}"


def test_a_check_says_what_would_run_and_on_which_host(run):
    code, said = run(COMMAND, "--check")
    assert code == 0, said
    assert said.count("orbiter queue info would run") == 1
    code, said = run(COMMAND, "--check", "--extra-vars=exec_all=true")
    assert "w1: orbiter queue info would run" in said
    assert "w2: orbiter queue info would run" in said


def test_it_runs_on_the_first_worker_host_of_the_limit(run):
    code, said = run(COMMAND, "--check", "--limit=w2:redis1")
    assert code == 0, said
    assert "changed: [w2]" in said
    assert "changed: [redis1]" not in said


@pytest.mark.parametrize(
    ("options", "hosts", "reason"),
    [
        (["--limit=redis1"], HOSTS, "those are: w1, w2"),
        ([], ["redis1", "[workers]"], "those are: none"),
        (["--extra-vars=orbiter_worker_hosts=nobody"], HOSTS, "(pattern nobody)"),
    ],
)
def test_it_refuses_where_no_worker_host_is_meant(run, options, hosts, reason):
    code, said = run(COMMAND, "--check", *options, hosts=hosts)
    assert code == 2, said
    assert reason in said
    assert "would run" not in said


def test_it_refuses_without_a_command(run):
    code, said = run("--check")
    assert code == 2
    assert "exec_command is empty" in said


def test_where_nothing_is_deployed_the_play_fails(run):
    code, said = run(COMMAND)
    assert code == 2
    assert "orbiter.fleet.site" in said


def test_lines_are_shown_as_they_are_and_can_do_nothing_to_a_terminal(ansible):
    task = '    - orbiter.fleet.show_lines: {lines: ["{\\"a\\": 1}", "b\\tc\\e[2J"], prefix: "w1: "}\n'
    done = ansible([f"w1 {LOCAL}"], task)
    assert '\nw1: {"a": 1}\nw1: b    c\\x1b[2J\n' in done.stdout, done.stdout


def test_a_time_that_is_none_is_refused(ansible):
    done = ansible(HOSTS, CHECKOUT / "playbooks/logs.yml", "--check", "--extra-vars=logs_since=soon")
    assert done.returncode == 2
    assert "logs_since is 'soon'" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("playbook", "words"),
    [
        ("exec", "exec_command=orbiter queue info"),
        ("logs", "logs_since=10 min ago"),
        ("drain", "worker_drain_reason=new memory"),
        ("backup", "redis_backup_directory=/srv/of backups"),
        ("restore", "redis_restore_file=/srv/of backups"),
        ("retire", "orbiter_retire=w1, w2"),
        ("scale", "instances=2 or so"),
        ("site", "orbiter_hooks_timeout=10 s"),
        ("backup", "redis_backup_dirctory=/srv"),
        ("logs", "log_since=2h"),
    ],
)
def test_words_after_e_that_nothing_reads_are_refused(ansible, playbook, words):
    done = ansible(HOSTS, CHECKOUT / f"playbooks/{playbook}.yml", "--check", f"--extra-vars={words}")
    assert done.returncode == 2, done.stdout
    said = " ".join(done.stdout.split())
    loose = words.partition(" ")[2]
    assert (f"After -e stands '{loose}', which is of no variable" if loose else "did you mean") in said
    assert "changed: [" not in said
