"""The group of Redis hosts is not what the inventory has: it is somebody else's, or smaller than it was."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from conftest import asked_sentinel, assert_no_host_changed, assert_unchanged, in_step, redis, role, sizes

from fleet import wait_until

pytestmark = pytest.mark.nightly


def test_workers_are_deployed_against_a_redis_that_is_not_ours(play, settings, fleet, *, workers, authority, tmp_path):
    """The inventory names a URL and no Redis hosts: here the same group, by its sentinels in another order."""
    url = fleet.redis_url.replace(quote(str(authority)), "/etc/orbiter/redis-ca.pem")
    scheme, _, rest = url.partition("@")
    hosts, _, service = rest.partition("/")
    url = f"{scheme}@{','.join(reversed(hosts.split(',')))}/{service}"
    (tmp_path / "elsewhere.json").write_text(json.dumps({"all": {"vars": {"orbiter_redis_url": url}}}))
    done = play("site.yml", "--inventory", str(tmp_path), orbiter_redis_hosts="nobody", **settings)
    assert done.returncode == 0
    assert url in workers["worker2"].check_output('. /etc/orbiter/worker.env; echo "$ORBITER_REDIS_URL"')
    ids = fleet.submit([0.1])
    fleet.wait_until_done(ids, within=30)
    assert fleet.statuses(ids) == ["completed"]


class TestOneOfThree:
    """The inventory names one of the three hosts: refused as long as a task could be lost, and then done."""

    def test_it_must_be_the_master(self, play, settings, servers, addresses, master):
        other = next(name for name in servers if name != master())
        done = play("site.yml", **settings | {"orbiter_redis_hosts": other})
        assert done.returncode != 0
        assert_no_host_changed(done)
        said = " ".join(done.stdout.split())
        assert f"{other}: the master of its group is {addresses[master()]}, which the inventory no longer has" in said
        assert "hand over to one that stays first" in said

    def test_the_others_must_have_stopped(self, play, settings, servers, addresses, master):
        others = [addresses[name] for name in servers if name != master()]
        done = play("site.yml", **settings | {"orbiter_redis_hosts": master()})
        assert done.returncode != 0
        assert_no_host_changed(done)
        said = " ".join(done.stdout.split())
        assert f"it is in a group of 3 Redis hosts, the inventory has 1, and {' and '.join(others)} still run" in said
        assert "systemctl disable --now redis-sentinel redis-server" in said

    @pytest.fixture(scope="class")
    def alone(self, play, settings, fleet, servers, master):
        """Leave one host, as docs/high-availability-changes.md says, "Fewer hosts": not the master."""
        name = next(name for name in servers if name != master())
        host, others = servers[name], [other for one, other in servers.items() if one != name]
        redis(host, "config set replica-priority 1")
        wait_until(
            lambda: "slave-priority\n1\n" in asked_sentinel(host, "replicas orbiter"),
            within=60,
            what=lambda: asked_sentinel(host, "replicas orbiter"),
        )
        assert asked_sentinel(host, "failover orbiter") == "OK"
        wait_until(lambda: role(host) == "master", within=60, what=lambda: role(host))
        wait_until(lambda: all(map(in_step, others)), within=90, what=lambda: str([role(other) for other in others]))

        ids = fleet.submit([20] * 3)
        wait_until(lambda: "running" in fleet.statuses(ids), within=60, what=lambda: str(fleet.statuses(ids)))
        assert play("playbooks/drain.yml", orbiter_everywhere=True, **settings).returncode == 0
        ids += fleet.submit([0.1] * 20)
        wait_until(lambda: len(sizes(servers)) == 1, within=30, what=lambda: str(sizes(servers)))
        for other in others:
            other.check_output("systemctl disable --now redis-sentinel redis-server")
        variables = settings | {"orbiter_redis_hosts": name}
        assert play("site.yml", **variables).returncode == 0
        assert play("playbooks/undrain.yml", **variables).returncode == 0
        return {"name": name, "ids": ids, "variables": variables}

    def test_the_documented_way_loses_nothing(self, alone, as_workers, addresses):
        fleet = as_workers()
        assert fleet.redis_url.partition("@")[2].startswith(
            f"{addresses[alone['name']]}:{alone['variables']['redis_tls_port']}/0?ssl_ca_certs="
        )
        fleet.assert_nothing_lost(alone["ids"], within=120)

    def test_it_is_a_single_server_then(self, alone, play, servers):
        assert servers[alone["name"]].run("systemctl is-enabled redis-sentinel").stdout.strip() == "disabled"
        assert servers[alone["name"]].run("systemctl is-active redis-sentinel").stdout.strip() == "inactive"
        assert_unchanged(play("site.yml", **alone["variables"]))
