"""Files that are shipped: those of others are what their packages have, and nothing is asked of anybody else."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

from orbiter.dashboard import view

STATIC = Path(view.__file__).parent / "static"
TEMPLATES = Path(view.__file__).parent / "templates"
OURS = {"dashboard.css", "dashboard.js", "orbiter.svg", "third_party.toml"}


def test_files_of_others_have_their_hashes_and_licences() -> None:
    known = tomllib.loads((STATIC / "third_party.toml").read_text())
    listed = set()
    for name, what in known.items():
        assert what["licence"], name
        assert (STATIC / what["licence_file"]).read_text().strip(), name
        listed |= {what["licence_file"], *what["files"]}
        for file, digest in what["files"].items():
            assert hashlib.sha256((STATIC / file).read_bytes()).hexdigest() == digest, file
    assert listed | OURS == {path.name for path in STATIC.iterdir()}


def test_pages_have_no_inline_scripts_or_styles() -> None:
    for path in TEMPLATES.iterdir():
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:|https?://", text), (
            path.name
        )


def test_templates_trust_no_text() -> None:
    for path in TEMPLATES.iterdir():
        assert not re.search(r"\|\s*safe\b|Markup|autoescape", path.read_text()), path.name
