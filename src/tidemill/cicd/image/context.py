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
from tidemill.cicd.image.wheel import write_wheel
from tidemill.core import digests
from tidemill.core.errors import ConflictError, InvalidError
from tidemill.registry.ports import ModelVersion

LIBRARIES = {"xgboost": ("xgboost-cpu", "xgboost"), "sklearn": ("scikit-learn", "skops")}
"""What models of a flavor need beside Tidemill: either of the two for XGBoost, both for scikit-learn."""
_LEFT = frozenset({"data", "tests", "node_modules", "__pycache__", "dist", "build"})
_LARGEST = 5 << 20
_DOCKERFILE = """# Written by `tidemill build`: the model server with {uri} of service {service}.
# The base image is yours to choose, best by digest: docker build --build-arg BASE=registry/python@sha256:... .
ARG BASE=python:{python}-slim
FROM ${{BASE}}
RUN useradd --system --uid 10001 --create-home --home-dir /home/tidemill tidemill && mkdir /state && chown tidemill /state
WORKDIR /app
COPY requirements.txt ./
COPY wheels ./wheels
RUN pip install --no-cache-dir --disable-pip-version-check --find-links wheels -r requirements.txt
COPY model ./model
COPY project ./project
COPY image.json sbom.cdx.json ./
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive TIDEMILL_STATE=/state
USER tidemill
VOLUME ["/state"]
EXPOSE 8401
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-m", "tidemill.cli.image", "/app", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "tidemill.cli.image", "/app"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8401"]
"""
_README = """# {service}, {uri}

Written by `tidemill build`. It needs nothing but a Python base image and a package index:

    docker build -t {service}:{version} .
    docker run -p 8401:8401 -e TIDEMILL_TOKEN=$(openssl rand -hex 32) -v {service}-state:/state {service}:{version}

Without Docker, with Python {python}:

    python -m venv env && env/bin/pip install --find-links wheels -r requirements.txt
    TIDEMILL_STATE=state env/bin/python -m tidemill.cli.image . serve

The server answers with the model in `model` (verified by its digest at each start) and logs predictions in the state folder. Features are read from the online store
that the project's configuration names (`TIDEMILL_OVERRIDES="stack.online=redis://..."` names another); a request that brings all inputs needs none. `sbom.cdx.json` lists
what is inside (CycloneDX), `image.json` says which model, code and interpreter it was made from.
"""


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


def write_context(image: Image, into: Path) -> dict[str, Any]:
    """Write the context into the new or empty folder `into`.

    Returns:
        What `image.json` says.

    Raises:
        ConflictError: the folder holds something.
        InvalidError: the model's function runs by an interpreter outside of the image.
        NotFoundError: a package that the project needs is not installed here.
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
    }
    written = {
        "requirements.txt": "".join(lines),
        "image.json": json.dumps(facts, indent=1, sort_keys=True, default=str) + "\n",
        "Dockerfile": _DOCKERFILE.format(**texts),
        ".dockerignore": "state\nenv\n**/__pycache__\n",
        "README.md": _README.format(**texts),
    }
    for name, text in written.items():
        (into / name).write_text(text, encoding="utf-8")
    (into / "sbom.cdx.json").write_bytes(bill(image.service, str(image.version.version), digest, found))
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
