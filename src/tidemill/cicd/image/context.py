"""Writing the context of an image: what a builder of images, or a person with a virtual environment, needs and nothing from outside but packages."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.cicd.image.locked import closure, imported
from tidemill.cicd.image.sbom import bill
from tidemill.cicd.image.texts import CHECKED, DOCKERFILE, README
from tidemill.cicd.image.wheel import write_wheel
from tidemill.cicd.image.wheels import digests_of, fetch_wheels
from tidemill.core import digests
from tidemill.core.errors import ConflictError, InvalidError
from tidemill.registry.ports import ModelVersion

LIBRARIES = {"xgboost": ("xgboost-cpu", "xgboost"), "sklearn": ("scikit-learn", "skops")}
"""What models of a flavor need beside Tidemill: either of the two for XGBoost, both for scikit-learn."""
_LEFT = frozenset({"data", "tests", "node_modules", "__pycache__", "dist", "build"})
_LARGEST = 5 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is of. `model` is the verified MLflow Model directory, `code` says which state of the project."""

    project: Path
    service: str
    version: ModelVersion
    model: Path
    code: Mapping[str, Any]
    extras: tuple[str, ...] = ()
    """Of Tidemill's extras, those that the project's stack needs."""


def write_context(image: Image, into: Path, *, wheels: bool = False) -> dict[str, Any]:
    """Write the context into the new or empty folder `into`.

    Args:
        image: what is served.
        into: the folder.
        wheels: also fetch the wheels of all packages, so that the image builds without an index, each wheel checked by its SHA-256.

    Returns:
        What `image.json` says.

    Raises:
        ConflictError: the folder holds something.
        InvalidError: the model's function runs by an interpreter outside of the image.
        NotFoundError: a package that the project needs is not installed here.
        ConfigError: with `wheels`, this is not Linux.
        UnavailableError: with `wheels`, pip could not get one.
    """
    if into.exists() and any(into.iterdir()):
        raise ConflictError(f"{into} is not empty; name a new folder")
    into.mkdir(parents=True, exist_ok=True)
    shutil.copytree(image.model, into / "model", copy_function=shutil.copyfile)
    for path in (into / "model").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (into / "wheels").mkdir()
    sources = _copy_project(image.project, into / "project")
    wheel = write_wheel("tidemill", into / "wheels")
    found = closure([f"tidemill[{','.join(image.extras)}]", *_libraries(image.version), *imported(sources)])
    lines = [f"{name}=={one.version}\n" for name, one in found.items()]
    digest = digests.of_tree(digests.tree(into / "model"))
    if digest != image.version.digest:
        raise InvalidError(f"the copied model has digest {digest}, the registered one {image.version.digest}")
    facts = facts_of(image) | {"python": platform.python_version(), "wheel": wheel.name}
    texts = {
        "service": image.service,
        "uri": image.version.uri,
        "version": image.version.version,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "pip": f"{CHECKED} " if wheels else "",
        "needs": "a Python base image" if wheels else "a Python base image and a package index",
    }
    written = {
        "requirements.txt": "".join(lines),
        "image.json": json.dumps(facts, indent=1, sort_keys=True, default=str) + "\n",
        "Dockerfile": DOCKERFILE.format(**texts),
        ".dockerignore": "state\nenv\n**/__pycache__\n",
        "README.md": README.format(**texts),
    }
    for name, text in written.items():
        (into / name).write_text(text, encoding="utf-8")
    if wheels:
        fetch_wheels(into)
    known = digests_of(into / "wheels")
    (into / "sbom.cdx.json").write_bytes(bill(image.service, str(image.version.version), digest, found, known))
    return facts


def facts_of(image: Image) -> dict[str, Any]:
    """Which service, model and code an image is of."""
    v = image.version
    model = {
        "name": v.name,
        "version": v.version,
        "digest": v.digest,
        "run_id": v.run_id,
        "at_us": v.at_us,
        "metrics": dict(v.metrics),
        "meta": dict(v.meta),
    }
    return {"service": image.service, "model": model, "code": dict(image.code)}


def _libraries(version: ModelVersion) -> Iterable[str]:
    flavor = str(version.meta.get("flavor", ""))
    if flavor == "xgboost":
        from importlib import metadata

        there = {d.metadata["Name"] for d in metadata.distributions()}
        return [next((name for name in LIBRARIES[flavor] if name in there), LIBRARIES[flavor][0])]
    return LIBRARIES.get(flavor, ())


def _copy_project(project: Path, into: Path) -> list[Path]:
    """The project's code and configuration, without data, state and environments; the Python files among them."""
    sources: list[Path] = []
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project)
        if any(
            part in _LEFT or part.startswith(".") or (project / Path(*name.parts[: i + 1]) / "pyvenv.cfg").exists()
            for i, part in enumerate(name.parts)
        ):
            continue
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            if path.suffix == ".py":
                sources.append(target)
    return sources
