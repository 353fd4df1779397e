"""Asking a model server by the Open Inference Protocol, with nothing but the standard library."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError, NotFoundError, RefusedError, TidemillError, UnavailableError
from tidemill.serving.asking import tensors

_ERRORS: dict[int, type[TidemillError]] = {
    400: InvalidError,
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    413: RefusedError,
    422: InvalidError,
}


def infer(
    url: str,
    service: Service,
    rows: Sequence[Mapping[str, Any]],
    token: str,
    *,
    timeout_s: float = 30.0,
    explain: bool = False,
    trusts: ssl.SSLContext | None = None,
) -> list[dict[str, Any]]:
    """Score `rows`; one answer {"id", "score", "version"} each, in order. Raises what the server's status stands for.

    With `explain`, each has "contributions": what each feature adds, by name, and `base`. `trusts`: whose certificates
    are taken from an https address; by default those that the system trusts.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidError(f"{url!r} is no http or https address")
    asks = {"parameters": {"explain": True}} if explain else {}
    body = json.dumps({"inputs": _inputs(service, rows), **asks}).encode()
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    target = f"{url.rstrip('/')}/v2/models/{quote(service.name)}/infer"
    request = urllib.request.Request(target, data=body, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=trusts) as answer:  # noqa: S310 - the scheme was checked
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise _error(error, token) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        if isinstance(reason := getattr(error, "reason", None), ssl.SSLCertVerificationError):
            told = f"the certificate of {url} is not trusted ({reason.verify_message}); set tls.ca to the authority's PEM file, tls.name to its name"
            raise RefusedError(told) from error
        raise UnavailableError(f"{url} does not answer ({error}); start it with `tidemill up`") from error
    return _answers(found)


def _inputs(service: Service, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    wanted = [c for c in dict.fromkeys((*service.request_columns, service.key)) if any(c in row for row in rows)]
    if missing := [c for c in service.request_columns if any(c not in row for row in rows)]:
        raise InvalidError(f"the request lacks {', '.join(missing)}; {service.name} asks for {', '.join(service.request_columns)}")
    return tensors(wanted, rows)


def _error(error: urllib.error.HTTPError, token: str) -> TidemillError:
    text = error.read(4096).decode(errors="replace")
    with suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("error", text))
    hint = "; set TIDEMILL_TOKEN to the token that `tidemill up` showed" if error.code == 401 and not token else ""
    return _ERRORS.get(error.code, UnavailableError)(f"the model server answered {error.code}: {text}{hint}")


def _answers(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    outputs = {o["name"]: o["data"] for o in found["outputs"]}
    told = next((o for o in found["outputs"] if o["name"] == "contributions"), None)
    scores = outputs.get("score", next(iter(outputs.values())))
    ids = outputs.get("id", [found.get("id")] * len(scores))
    versions = outputs.get("version", [found.get("model_version")] * len(scores))
    answers = [{"id": i, "score": s, "version": v} for i, s, v in zip(ids, scores, versions, strict=True)]
    if told is not None:
        names, flat = told["parameters"]["columns"].split(", "), told["data"]
        for row, answer in enumerate(answers):
            answer["contributions"] = dict(zip(names, flat[row * len(names) : (row + 1) * len(names)], strict=True))
    return answers
