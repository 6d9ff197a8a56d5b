"""Signatures of archives, by OpenSSH: made with a key of the operator's, and checked without a network.

A signature lies beside its archive, with .sig after its name.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pins import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable

# A signature that was made for something else, such as a commit, is none of a release.
PURPOSE = "orbiter-release"
PUBLIC_KEY = re.compile(r"(?P<key>[a-z0-9@.-]+ [A-Za-z0-9+/]{32,}={0,2})( .*)?")


def signature_of(archive: Path) -> Path:
    """Return the path of an archive's signature."""
    return archive.with_name(f"{archive.name}.sig")


def sign(archive: Path, key: Path) -> None:
    """Sign an archive with a private key, or with the one in the agent that a public key belongs to."""
    signature_of(archive).unlink(missing_ok=True)
    done = _ssh_keygen("sign", "-f", str(key), str(archive))
    if done.returncode:
        raise BuildError(
            f"release_signing_key: {key} cannot sign: {done.stderr.strip()}. A key with a passphrase has to be in "
            "ssh-agent; name its public half, KEY.pub, then"
        )


def is_signed_by(archive: Path, key: Path) -> bool:
    """Tell whether a signature is there that claims to be of this key; whether it is right is `verify`'s to say."""
    if not signature_of(archive).is_file():
        return False
    with archive.open("rb") as content:
        signed = _ssh_keygen("check-novalidate", "-s", str(signature_of(archive)), given=content)
    if signed.returncode:  # not of these bytes: whoever installs it has to be told
        return True
    words = ["ssh-keygen", "-l", "-E", "sha256", "-f", str(key)]
    own = subprocess.run(words, capture_output=True, text=True, check=False)
    if own.returncode:
        raise BuildError(f"release_signing_key: {key} cannot be read as a key: {own.stderr.strip()}")
    return own.stdout.split()[1] in signed.stdout.split()


def verify(archive: Path, signers: Iterable[str]) -> None:
    """Check that one of these public keys signed an archive.

    Raises:
        BuildError: None of them did, or the archive has changed since.
    """
    lines = []
    for signer in signers:
        match = PUBLIC_KEY.fullmatch(signer.strip())
        if match is None:
            raise BuildError(
                f"worker_release_signers: {signer!r} is no public key of OpenSSH, such as ssh-ed25519 AAAA…: "
                "write what is in the file KEY.pub"
            )
        lines.append(f'signer namespaces="{PURPOSE}" {match["key"]}\n')
    if not signature_of(archive).is_file():
        raise BuildError(
            f"{archive} is not signed, and worker_release_signers asks for it. Set release_signing_key where releases "
            "are built, and bring the signature along, in the same folder"
        )
    with tempfile.TemporaryDirectory() as scratch, archive.open("rb") as content:
        allowed = Path(scratch, "allowed_signers")
        allowed.write_text("".join(lines))
        options = ("-f", str(allowed), "-I", "signer", "-s", str(signature_of(archive)))
        done = _ssh_keygen("verify", *options, given=content)
    if done.returncode:
        raise BuildError(
            f"{archive} is not what one of worker_release_signers signed: {(done.stderr or done.stdout).strip()} "
            "Find out who changed it; to build it again, remove its folder"
        )


def _ssh_keygen(action: str, *options: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    """Run ssh-keygen, which asks nobody for a passphrase."""
    words = ["ssh-keygen", "-Y", action, "-n", PURPOSE, *options]
    try:
        return subprocess.run(
            words,
            stdin=given or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise BuildError(
            "There is no ssh-keygen on the controller, which signs releases: install openssh-client"
        ) from None
