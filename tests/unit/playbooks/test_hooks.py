"""Hooks run around a deploy: one before it can stop it, and those of its end run whichever way it ends."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _hooks

CHECKOUT = Path(__file__).parents[3]
LOCAL = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
HOSTS = [f"{name} {LOCAL}" for name in ("r1", "w1", "w2")] + ["[redis]", "r1", "[workers]", "w1", "w2"]
# Ansible knows no host's variables before its first play.
FIRST_PLAY = {"hosts": "all", "gather_facts": False, "tasks": [{"debug": {"msg": "BEGINS"}}]}
CHANGES = {"hosts": "workers", "gather_facts": False, "tasks": [{"debug": {"msg": "CHANGES"}}]}
STAGED = {
    "hosts": "{{ __site_hook_hosts }}",
    "gather_facts": False,
    "roles": [str(CHECKOUT / "playbooks/roles/derived")],
    "tasks": [{"orbiter.fleet.hooks": {"state": "known", "release": "2-bb"}, "run_once": True}],
}
FAILS = {
    "hosts": "workers",
    "gather_facts": False,
    "tasks": [{"fail": {"msg": "BROKEN"}, "when": "inventory_hostname == 'w2'"}],
}
# As the role chooses on each host of a rollback: systemd's, compose's.
CHOSEN = {"__worker_previous": {"previous": "1-aa"}, "__worker_compose_previous": {"picked": "hub/worker:1"}}
TELL = (
    'echo "$ORBITER_HOOK $ORBITER_OUTCOME $ORBITER_PLAYBOOK $ORBITER_RELEASE $ORBITER_HOSTS'
    ' [$ORBITER_FAILED_HOSTS] $ORBITER_USER" >>told'
)


@pytest.fixture
def deploy(ansible, tmp_path, monkeypatch):
    """Return a function that plays what deploys begin with, and plays; it gives what was said and what hooks wrote."""
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "orbiter.fleet.hooks")
    monkeypatch.setenv("SUDO_USER", "alice")

    def run(*plays, options=(), **hooks):
        book = [FIRST_PLAY, {"import_playbook": str(CHECKOUT / "playbooks/hooks.yml")}, *plays]
        (tmp_path / "deploy.yml").write_text(json.dumps(book))
        values = {f"orbiter_hooks_{name}": value for name, value in hooks.items()}
        (tmp_path / "values.json").write_text(json.dumps(values))
        extra = [f"--extra-vars=@{tmp_path}/values.json", *options]
        done = ansible(HOSTS, tmp_path / "deploy.yml", *extra)
        told = (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []
        return done, " ".join((done.stdout + done.stderr).split()), told

    return run


SLOW = 15  # seconds


@contextmanager
def chat(answer=200):
    """Run a server that takes what is posted to it; yield its address and what came. Without an answer it is slow."""
    posts, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append((self.path, self.headers["Content-Type"], json.loads(body)))
            for _turn in range(SLOW * 4 if answer is None else 0):
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if over.wait(0.25):
                    return
            self.send_response(answer or 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", posts
        finally:
            over.set()
            server.shutdown()


ALL = {"before_deploy": [TELL], "after_deploy": [TELL], "after_failure": [TELL]}


def test_hooks_are_told_about_a_deploy_that_ends_well(deploy):
    done, said, told = deploy(CHANGES, STAGED, **ALL)
    assert done.returncode == 0, said
    assert told == [
        "before_deploy began deploy  r1,w1,w2 [] alice",
        "after_deploy ended deploy 2-bb r1,w1,w2 [] alice",
    ]


def test_hooks_are_told_which_hosts_failed(deploy):
    done, said, told = deploy(FAILS, CHANGES, **ALL, options=["--limit=workers"])
    assert done.returncode == 2, said
    assert told == [
        "before_deploy began deploy  w1,w2 [] alice",
        "after_failure failed deploy  w1,w2 [w2] alice",
    ]


def test_hooks_are_told_which_releases_a_rollback_chose(deploy):
    noted = {"orbiter.fleet.hooks": {"state": "known", "release": "{{ lock_release }}"}, "run_once": True}
    chosen = [
        {"set_fact": {name: value}, "when": f"inventory_hostname == 'w{host}'"}
        for host, (name, value) in enumerate(CHOSEN.items(), 1)
    ]
    done, said, told = deploy(STAGED | {"tasks": [*chosen, noted]}, **ALL, options=["-eworker_version="])
    assert done.returncode == 0, said
    assert told[-1] == "after_deploy ended deploy 1-aa, hub/worker:1 r1,w1,w2 [] alice"


def test_a_webhook_is_posted_what_hooks_are_told(deploy):
    with chat() as (address, posts):
        hook = [{"url": f"{address}/of/s3cret"}]
        done, said, _told = deploy(
            STAGED, FAILS, before_deploy=hook, after_deploy=hook, after_failure=hook, options=["-vvv"]
        )
    assert done.returncode == 2
    assert "s3cret" not in said
    assert {(path, kind) for path, kind, _body in posts} == {("/of/s3cret", "application/json")}
    before, after = (body for _path, _kind, body in posts)
    assert (before["hook"], before["outcome"], before["failed_hosts"]) == ("before_deploy", "began", [])
    assert after == {
        "hook": "after_failure",
        "playbook": "deploy",
        "release": "2-bb",
        "hosts": ["r1", "w1", "w2"],
        "outcome": "failed",
        "failed_hosts": ["w2"],
        "user": "alice",
        "controller": before["controller"],
        "text": "deploy of 2-bb failed on w2, by alice",
    }


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_a_webhook_that_refuses_stops_a_deploy_and_is_a_warning_at_its_end(deploy, answer):
    with chat(answer) as (address, posts):
        hook = [{"url": f"{address}/s3cret"}]
        done, said, told = deploy(CHANGES, before_deploy=hook, after_failure=[TELL])
        assert done.returncode == 2
        assert f"before_deploy hook 1 (webhook of 127.0.0.1) was answered with {answer}" in said
        assert ("CHANGES" in said, len(told)) == (False, 1)
        done, said, _told = deploy(CHANGES, after_deploy=hook)
        assert done.returncode == 0
        assert f"was answered with {answer}" in said
    assert [path for path, _kind, _body in posts] == ["/s3cret"] * 2
    done, said, _told = deploy(CHANGES, after_deploy=hook)
    assert done.returncode == 0
    assert "was not reached: Connection refused" in said
    assert "s3cret" not in said


def test_a_webhook_that_answers_byte_by_byte_is_not_waited_for(deploy):
    with chat(answer=None) as (address, _posts):
        done, said, _told = deploy(CHANGES, before_deploy=[{"url": f"{address}/s3cret"}], timeout=3)
    assert done.returncode == 2
    assert "before_deploy hook 1 (webhook of 127.0.0.1) did not answer within 3 s" in said
    assert ("CHANGES" in said, "s3cret" in said) == (False, False)


def test_a_failing_hook_before_stops_the_run_and_says_why(deploy):
    before = [["sh", "-c", "echo the reason; exit 7"], TELL]
    done, said, told = deploy(CHANGES, before_deploy=before, after_failure=[TELL])
    assert done.returncode == 2
    assert "before_deploy hook 1 (sh) ended with exit code 7" in said
    assert "the reason" in said
    assert "CHANGES" not in said
    assert [row.split()[0] for row in told] == ["after_failure"]


def test_a_failing_hook_at_the_end_is_a_warning_and_others_run(deploy):
    done, said, told = deploy(CHANGES, after_deploy=["exit 7", ["/nothing/there"], TELL])
    assert done.returncode == 0, said
    assert "after_deploy hook 1 (exit) ended with exit code 7" in said
    assert "after_deploy hook 2 (there) cannot be run: No such file" in said
    assert [row.split()[0] for row in told] == ["after_deploy"]


def test_a_hook_that_takes_too_long_is_stopped_with_what_it_started(deploy):
    done, said, _told = deploy(CHANGES, before_deploy=["sleep 600 & sleep 600"], timeout=1)
    assert done.returncode == 2
    assert "did not end within 1 s" in said
    assert "CHANGES" not in said


def test_no_hook_runs_in_a_check(deploy):
    done, said, told = deploy(CHANGES, STAGED, **ALL, options=["--check"])
    assert done.returncode == 0, said
    assert told == []
    assert "CHANGES" in said


def test_words_of_hooks_are_not_shown(deploy):
    hooks = [["false", "s3cret"], "false s3cret"]
    for each in ({"before_deploy": hooks[:1]}, {"after_deploy": hooks}):
        _done, said, _told = deploy(CHANGES, **each, options=["-vvv"])
        assert "(false) ended with exit code 1" in said
        # The run's own command line has a file of them only.
        assert "s3cret" not in said


def test_hooks_for_the_end_that_nothing_would_run_are_refused(deploy, monkeypatch):
    monkeypatch.delenv("ANSIBLE_CALLBACKS_ENABLED")
    done, said, told = deploy(CHANGES, **ALL)
    assert done.returncode == 2
    assert "callbacks_enabled = orbiter.fleet.hooks" in said
    assert (told, "CHANGES" in said) == ([], False)
    done, said, told = deploy(CHANGES, before_deploy=[TELL])
    assert done.returncode == 0, said
    assert len(told) == 1


@pytest.mark.parametrize(
    ("hooks", "named"),
    [
        ({"before_deploy": "make s3cret"}, "orbiter_hooks_before_deploy is no list"),
        ({"after_deploy": {"url": "https://x/s3cret"}}, "orbiter_hooks_after_deploy is no list"),
        ({"after_deploy": ["", "x"]}, "orbiter_hooks_after_deploy[0]"),
        ({"after_failure": ["x", {"a": 1}]}, "orbiter_hooks_after_failure[1] has a;"),
        ({"after_deploy": [{"url": "https://x", "body": "s3cret"}]}, "orbiter_hooks_after_deploy[0] has body, url;"),
        ({"after_deploy": [{"url": "chat.example.net/s3cret"}]}, "orbiter_hooks_after_deploy[0].url"),
        ({"before_deploy": ["x"], "timeout": "soon"}, "orbiter_hooks_timeout is 'soon'"),
    ],
)
def test_what_is_no_hook_is_refused_by_name(deploy, hooks, named):
    done, said, _told = deploy(CHANGES, **hooks)
    assert done.returncode == 2
    assert named in said
    assert "CHANGES" not in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "file:///s3cret",
        "ftp://x/s3cret",
        "https://",
        "https://x:s3cret",
        "https://x:0/",
        "https://x/ s3cret",
        "https://x/é",
        7,
    ],
)
def test_a_webhook_is_reached_by_http_only(url):
    with pytest.raises(ValueError, match=r"^hooks\[0\]\.url .*must begin with http:// or https://") as refused:
        _hooks.commands("hooks", [{"url": url}])
    assert "s3cret" not in str(refused.value)


def test_without_hooks_nothing_is_asked_for(deploy):
    done, said, _told = deploy(CHANGES, STAGED)
    assert done.returncode == 0
    assert "Run the hooks" not in said


@pytest.mark.parametrize(
    ("name", "first"), [("site", "Stage"), ("rolling_update", "Users"), ("rollback", "Roll a batch back")]
)
def test_hooks_come_before_what_changes_hosts(name, first):
    names = [play["name"] for play in yaml.safe_load((CHECKOUT / f"playbooks/{name}.yml").read_text())]
    assert names.index("Prepare") < names.index("Hooks") == names.index(first) - 1
