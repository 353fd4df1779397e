"""Writing a load test: the calls that were logged, as bodies, and a Locust file that sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import format_instant, to_us
from tidemill.core.privacy import is_masked
from tidemill.serving.asking import tensors
from tidemill.serving.ports import Prediction

CALLS, FILE = "requests.jsonl", "locustfile.py"
_PART = re.compile(r"(.*)/\d+")
_TEXT = '''"""Load of the service {name}: calls drawn from what it was really asked. Written by `tidemill loadtest`; yours to change.

    locust -f {file} --host http://127.0.0.1:8401

TIDEMILL_TOKEN is the token of the model server, LOADTEST_RATE how many calls a second all users make together (without it, each calls again as
soon as it is answered).
"""

import json
import os
import random
import uuid
from pathlib import Path

from locust import FastHttpUser, constant, constant_throughput, events, task

BODIES = [json.loads(line) for line in Path(__file__).with_name("{calls}").read_text().splitlines()]
PATH = "/v2/models/{name}/infer"
HEADERS = {{"authorization": "Bearer " + os.environ["TIDEMILL_TOKEN"]}} if os.environ.get("TIDEMILL_TOKEN") else {{}}
RATE = float(os.environ.get("LOADTEST_RATE") or 0)


@events.init.add_listener
def begin(environment, **_):
    """Divide the rate among the users that are asked for."""
    users = environment.parsed_options.num_users if environment.parsed_options else 0
    Caller.wait_time = constant_throughput(RATE / (users or 1)) if RATE else constant(0)


class Caller(FastHttpUser):
    """Asks as the callers of {name} did."""

    insecure = False  # the server's certificate has to be one that the system, or SSL_CERT_FILE, trusts

    @task
    def ask(self):
        """Send one of the calls under an id of its own."""
        body = dict(random.choice(BODIES), id="loadtest-" + uuid.uuid4().hex)
        with self.client.post(PATH, json=body, headers=HEADERS, name="infer", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {{answer.status_code}}: {{(answer.text or '')[:200]}}")
'''


def write(service: Service, calls: Sequence[Sequence[Mapping[str, Any]]], folder: Path) -> dict[str, Any]:
    """Write the test of a service into a folder; say what it holds.

    Raises `InvalidError` when there is no call, or one that no server would take.
    """
    if not calls:
        raise InvalidError(f"nothing was asked of {service.name!r} yet, so there is nothing to draw from; give --requests FILE")
    folder.mkdir(parents=True, exist_ok=True)
    bodies = [json.dumps({"inputs": tensors(dict.fromkeys(name for row in call for name in row), call)}) for call in calls]
    (folder / CALLS).write_text("".join(body + "\n" for body in bodies))
    (folder / FILE).write_text(_TEXT.format(name=service.name, file=FILE, calls=CALLS))
    sizes = [len(call) for call in calls]
    return {"file": str(folder / FILE), "calls": len(calls), "rows": sum(sizes), "most_rows": max(sizes)}


def logged_calls(service: Service, answered: Iterable[Prediction]) -> Iterator[list[dict[str, Any]]]:
    """The calls that predictions were answers to, in order: rows of one call have its id and a number behind it.

    Raises `InvalidError` when the log has only hashes of what was asked.
    """
    call, name = list[dict[str, Any]](), ""
    for prediction in answered:
        part = _PART.fullmatch(prediction.id)
        mine = part[1] if part else ""
        if call and (not mine or mine != name):
            yield call
            call = []
        name = mine
        call.append(_row(service, prediction))
    if call:
        yield call


def _row(service: Service, p: Prediction) -> dict[str, Any]:
    asked = {c: p.request[c] for c in service.request_columns if c in p.request}
    row = asked if len(asked) == len(service.request_columns) else dict(zip(p.columns, p.values, strict=True))
    if hidden := sorted(c for c, v in row.items() if is_masked(v)):
        raise InvalidError(
            f"the log of {service.name!r} has only hashes of {', '.join(hidden)}, which is personal; give --requests FILE with requests to draw from"
        )
    return {c: format_instant(to_us(v)) if isinstance(v, datetime) else v for c, v in row.items()}
