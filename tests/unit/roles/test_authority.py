"""The fleet's own authority signs anew what it has not signed, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ROLE = """
    - include_role: {name: orbiter.fleet.authority}
      vars: {authority_name: redis1, authority_hosts: [192.0.2.1]}
"""
HOST = f"host ansible_connection=local ansible_python_interpreter={sys.executable}"


@pytest.fixture
def sign(ansible, tmp_path):
    """Return a function that runs the role, and returns the certificate."""
    folder = tmp_path / "tls"

    def run():
        done = ansible([HOST], ROLE, "--extra-vars=" + json.dumps({"authority_directory": str(folder)}))
        assert done.returncode == 0, done.stdout
        return (folder / "redis1.pem").read_text()

    run.folder = folder
    return run


def is_signed(folder):
    """Tell whether the authority has signed the certificate."""
    words = ["openssl", "verify", "-CAfile", folder / "ca.pem", folder / "redis1.pem"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_certificate_of_an_authority_that_was_replaced_is_signed_by_the_new_one(sign):
    first = sign()
    assert is_signed(sign.folder)
    assert sign() == first
    for path in sign.folder.glob("ca.*"):
        path.unlink()
    # The new authority has the name of the old one, and another key.
    second = sign()
    assert second != first
    assert is_signed(sign.folder)
    assert sign() == second
