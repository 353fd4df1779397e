"""Atheris on the parsers: bytes that libFuzzer makes, guided by which lines of the parsers they reach, to every protocol of a server in this process.

`python -m tests.support.parser_fuzz HOME 600` does it for ten minutes. The first byte of an input chooses the protocol, the second the content type
or encoding; the rest is the body. What is found is an answer of 5xx or of the wrong shape, or an exception that leaves the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.venvs import python_with

LONGEST = 2048
"""Bytes of an input, at most."""


def fuzz(home: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own; not 0 when something was found, and then `crash-…` in `home` is the input that did it."""
    atheris = python_with("atheris", "atheris>=3.0")
    found = subprocess.run([str(atheris), "-c", "import atheris; print(atheris.__path__[0])"], capture_output=True, text=True, check=True)
    return subprocess.run(
        [sys.executable, "-m", "tests.support.parser_fuzz", str(home), str(seconds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(Path(found.stdout.strip()).parent)])},
        capture_output=True,
        text=True,
        timeout=seconds * 2 + 120,
        check=False,
    )


def main(home: Path, seconds: int) -> None:
    """Instrument what reads requests, write the seeds, and fuzz until the time is over."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["tidemill.serving", "tidemill.adapters.grpc"]):
        from tests.support import protocol_requests as requests
        from tests.support.serving_kit import Stack
    paths = sorted(requests.VALID)
    headers = [{"content-type": kind} for kind in ("application/json", "text/csv", "application/jsonlines", "text/csv; header=present", "")]
    headers += [{"content-encoding": kind} for kind in ("gzip", "deflate")] + [
        {"inference-header-content-length": n} for n in ("1", "60", "200")
    ]
    asker = requests.Asker(Stack.of(home, live=1))

    def one(sent: bytes) -> None:
        which, kind, body = sent[0] if sent else 0, sent[1] if len(sent) > 1 else 0, sent[2:]
        if which % (len(paths) + 1) == len(paths):
            code, reason = asker.ask_grpc("ModelInfer", body)
            assert code not in (13, 14), reason
        else:
            path = paths[which % (len(paths) + 1)]
            requests.check(path, asker.ask("POST", path, body, **headers[kind % len(headers)]))

    corpus = home / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(_seeds(requests, paths)):
        (corpus / f"seed-{i}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={home}/", str(corpus)], one)
    atheris.Fuzz()


def _seeds(requests: Any, paths: list[str]) -> list[bytes]:
    valid, raw = requests.VALID, [requests.GOOD, requests.RAW]
    told = [bytes([i, 0]) + json.dumps(one).encode() for i, path in enumerate(paths) for one in valid[path]]
    return told + [bytes([len(paths), 0]) + one for one in raw] + [bytes([paths.index("/invocations"), 1]) + b"hour,distance\n1,2\n"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
