"""A software bill of materials in CycloneDX JSON, version 1.6, written from its specification (ECMA-424): libraries, model, and who needs whom."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from tidemill.cicd.image.locked import needs

_SPEC = "1.6"
_SHORT = 80


def bill(name: str, version: str, digest: str, found: Mapping[str, metadata.Distribution], sums: Mapping[str, str]) -> bytes:
    """The bill of one image; the same contents give the same bytes. `sums` has the SHA-256 of the wheels that are known."""
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }
    libraries = [_library(key, one, sums.get(key)) for key, one in found.items()]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": _SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, version, digest, [c['purl'] for c in libraries]]))}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "image", "name": name, "version": version},
            "tools": {"components": [{"type": "application", "name": "tidemill", "version": metadata.version("tidemill")}]},
        },
        "components": [model, *libraries],
        "dependencies": [
            {"ref": "image", "dependsOn": ["model", *(_purl(key, one) for key, one in found.items())]},
            {"ref": "model", "dependsOn": []},
            *(_dependency(key, one, found) for key, one in found.items()),
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _purl(name: str, found: metadata.Distribution) -> str:
    return f"pkg:pypi/{name}@{found.version.replace('+', '%2B')}"


def _library(name: str, found: metadata.Distribution, digest: str | None) -> dict[str, Any]:
    purl = _purl(name, found)
    out: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": found.version, "purl": purl}
    if digest is not None:
        out["hashes"] = [{"alg": "SHA-256", "content": digest}]
    about: Any = found.metadata
    if expression := about.get("License-Expression"):
        out["licenses"] = [{"expression": expression}]
    elif said := _licence(about):
        out["licenses"] = [{"license": {"name": said}}]
    return out


def _licence(about: Any) -> str:
    classified = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    said = str(about.get("License") or "").strip().splitlines()
    return " / ".join(classified) or (said[0][:_SHORT] if said else "")


def _dependency(name: str, one: metadata.Distribution, found: Mapping[str, metadata.Distribution]) -> dict[str, Any]:
    return {"ref": _purl(name, one), "dependsOn": [_purl(other, found[other]) for other in needs(one, found)]}
