"""The Dockerfile of an image and the page that explains it."""

from __future__ import annotations

CHECKED = "--no-index --require-hashes"
"""What pip is told when all wheels lie in the context: nothing from outside, and each by its SHA-256."""
DOCKERFILE = """# Written by `tidemill build`: the model server with {uri} of service {service}.
# The base image is yours to choose, best by digest: docker build --build-arg BASE=registry/python@sha256:... .
ARG BASE=python:{python}-slim

FROM ${{BASE}} AS packages
WORKDIR /build
COPY requirements.txt ./
COPY wheels ./wheels
RUN python3 -m venv /venv \\
 && /venv/bin/pip install {pip}--no-cache-dir --disable-pip-version-check --find-links wheels -r requirements.txt

FROM ${{BASE}}
# LightGBM needs OpenMP's runtime, which small Debian images lack; a base that has it needs no network here
RUN python3 -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null \\
 || (apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*)
RUN groupadd --gid 10001 tidemill \\
 && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/tidemill tidemill \\
 && mkdir /state && chown 10001:10001 /state
WORKDIR /app
COPY --from=packages /venv /venv
COPY model ./model
COPY project ./project
COPY image.json sbom.cdx.json ./
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive TIDEMILL_STATE=/state
# by number: Kubernetes' runAsNonRoot cannot tell who a name is
USER 10001:10001
VOLUME ["/state"]
EXPOSE 8401
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-m", "tidemill.cli.image", "/app", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "tidemill.cli.image", "/app"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8401"]
"""
README = """# {service}, {uri}

Written by `tidemill build`. It needs nothing but {needs}:

    docker build -t {service}:{version} .
    docker run -p 8401:8401 -e TIDEMILL_TOKEN=$(openssl rand -hex 32) -v {service}-state:/state {service}:{version}

Without Docker, with Python {python}:

    python -m venv env && env/bin/pip install {pip}--find-links wheels -r requirements.txt
    TIDEMILL_STATE=state env/bin/python -m tidemill.cli.image . serve

The server answers with the model in `model` (verified by its digest at each start) and logs predictions in the state folder. Features are read from the online store
that the project's configuration names (`TIDEMILL_OVERRIDES="stack.online=redis://..."` names another); a request that brings all inputs needs none. `sbom.cdx.json` lists
what is inside (CycloneDX), `image.json` says which model, code and interpreter it was made from.
"""
