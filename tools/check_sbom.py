"""Checks that bills of materials are CycloneDX 1.6, as its schema has it. Usage: check_sbom.py FILE..."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def problem(text: str) -> str | None:
    """Return what is wrong with a bill as JSON, or nothing."""
    try:
        found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except ValueError as error:
        return f"no JSON: {error}"
    return None if found is None else str(found)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if wrong := problem(Path(name).read_text(encoding="utf-8")):
            sys.exit(f"{name} is not valid CycloneDX 1.6: {wrong}")
