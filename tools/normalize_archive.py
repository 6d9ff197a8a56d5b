"""Write a collection's archive anew, so that it depends on the files alone: not on time, nor on their order on disk.

Usage: normalize_archive.py ARCHIVE RESULT, with the time for all files in SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path


def dump(content: object) -> bytes:
    """Return JSON as ansible-galaxy writes it."""
    return json.dumps(content, indent=True).encode()


def main() -> None:
    """Read, sort, write."""
    source, result, time = Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["SOURCE_DATE_EPOCH"])
    with tarfile.open(source) as tar:
        contents = {
            member.name: (member.mode, tar.extractfile(member).read() if member.isfile() else None) for member in tar
        }

    # The lists of files are in the order of the disk; one names the other by its hash.
    files = json.loads(contents["FILES.json"][1])
    files["files"].sort(key=lambda entry: entry["name"])
    manifest = json.loads(contents["MANIFEST.json"][1])
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(dump(files)).hexdigest()
    contents["FILES.json"] = (0o644, dump(files))
    contents["MANIFEST.json"] = (0o644, dump(manifest))

    # Where the manifest is the first file, a reader needs no more than the beginning.
    names = sorted(contents, key=lambda name: (name not in ("MANIFEST.json", "FILES.json"), name))
    with (
        result.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=time) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in names:
            mode, data = contents[name]
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime, entry.size = mode, time, len(data or b"")
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            tar.addfile(entry, io.BytesIO(data or b""))


main()
