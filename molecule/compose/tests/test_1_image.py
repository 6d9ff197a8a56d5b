"""The image: small, without root, without build tools, in a registry with a login."""

from __future__ import annotations

import json

import pytest

from fleet import VERSION

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def builder(on):
    """Return the host that builds images."""
    return on("worker1")


@pytest.fixture(scope="module")
def reference(builder):
    """Return what the stack calls its image: name, tag and digest."""
    described = builder.check_output("docker compose --file /etc/orbiter/docker-compose.yml config --format json")
    return json.loads(described)["services"]["worker"]["image"]


@pytest.fixture(scope="module")
def image(builder, reference):
    """Return the image, inspected."""
    (found,) = json.loads(builder.check_output(f"docker image inspect {reference}"))
    return found


def test_hosts_run_the_image_of_the_registry_by_its_digest(reference, workers, replicas, runner):
    registry = runner.get_variables("worker1")["image_registry"]
    assert reference.startswith(f"{registry}/orbiter-worker:{VERSION}-")
    assert "@sha256:" in reference
    images = {row["Config"]["Image"] for host in workers.values() for row in replicas(host)}
    assert images == {reference}


@pytest.mark.guide("Dockerfile", '`CMD ["orbiter", "start", "worker", "--concurrency", "4"]`')
def test_image_says_what_it_is_and_how_it_is_run(image, reference):
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["/opt/orbiter/bin/python", "-I", "/opt/orbiter/init.py"]
    assert config["Cmd"] == ["orbiter", "start", "worker", "--concurrency", "4"]
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "/opt/orbiter/healthcheck.py"]
    labels = config["Labels"]
    version, _, revision = reference.partition("@")[0].rpartition(":")[2].rpartition("-")
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.revision"] == revision
    assert labels["org.opencontainers.image.title"] == "Orbiter worker"


def test_image_adds_200_megabytes_at_most_to_its_base(builder, image):
    base = int(builder.check_output("docker image inspect --format '{{ .Size }}' orbiter-testbase:trixie"))
    print(f"base {base / MEGABYTE:.0f} MB, image {image['Size'] / MEGABYTE:.0f} MB")
    assert image["Size"] - base <= 200 * MEGABYTE


def test_nothing_that_builds_is_in_the_image(builder, reference):
    run = f"docker run --rm --network none {reference}"
    assert builder.run(f"{run} python3 -m pip --version").rc != 0
    assert builder.run(f"{run} /opt/orbiter/bin/python -m pip --version").rc != 0
    assert builder.run(f"{run} sh -c 'command -v gcc cc make pip pip3 uv'").stdout == ""
    assert builder.run(f"{run} find / -xdev -name *.whl").stdout == ""


def test_extra_tag_stands_for_the_same_image(builder, image, reference):
    name = reference.partition("@")[0].rpartition(":")[0]
    (latest,) = json.loads(builder.check_output(f"docker image inspect {name}:latest"))
    assert latest["Id"] == image["Id"]
