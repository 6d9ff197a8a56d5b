"""The bill of materials of a release: CycloneDX 1.6 as JSON, from the wheels themselves."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import apps
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from email.message import Message
    from pathlib import Path

    from pins import Target


def document(version: str, target: Target, wheels: Iterable[Path], own: Mapping[Path, object]) -> str:
    """Return a release's bill of materials; the same wheels make the same, byte for byte.

    Args:
        version: The release's.
        target: The kind of host it is for.
        wheels: All that is in it.
        own: Those that come from no index.
    """
    root = f"release/{version}/{target}"
    found = {str(parse_wheel_filename(wheel.name)[0]): wheel for wheel in sorted(wheels, key=lambda wheel: wheel.name)}
    components, dependencies = [], [{"ref": root, "dependsOn": [f"wheel/{name}" for name in found]}]
    for name, wheel in found.items():
        metadata = apps.metadata_of(wheel)
        component: dict[str, Any] = {"type": "library", "bom-ref": f"wheel/{name}", "name": name}
        component["version"] = str(parse_wheel_filename(wheel.name)[1])
        if wheel not in own:
            component["purl"] = f"pkg:pypi/{name}@{component['version'].replace('+', '%2B')}?file_name={wheel.name}"
        if license_ := _license(metadata):
            component["licenses"] = [license_]
        component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
        components.append(component)
        needs = map(Requirement, metadata.get_all("Requires-Dist", []))
        wanted = {
            str(canonicalize_name(need.name))
            for need in needs
            if need.marker is None or need.marker.evaluate(target.markers())
        }
        dependencies.append(
            {"ref": f"wheel/{name}", "dependsOn": [f"wheel/{other}" for other in sorted(wanted & found.keys())]}
        )
    bill: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "orbiter-worker-release",
                "version": version,
                "properties": [{"name": "orbiter:target", "value": str(target)}],
            }
        },
        "components": components,
        "dependencies": dependencies,
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill))}"
    return json.dumps(bill, indent=1) + "\n"


def _license(metadata: Message) -> dict[str, Any] | None:
    """Return a wheel's licence as it names it."""
    if expression := metadata.get("License-Expression"):
        return {"expression": expression}
    for classifier in metadata.get_all("Classifier", []):
        if classifier.startswith("License :: "):
            return {"license": {"name": classifier.rpartition(" :: ")[2]}}
    text = (metadata.get("License") or "").strip()
    return {"license": {"name": text}} if text and "\n" not in text else None
