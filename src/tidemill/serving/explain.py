"""What each feature adds to an answer, where the model can say: SHAP values that the tree libraries compute themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.serving.ports import LoadedModel, Matrix, Prediction
from tidemill.serving.score import Scorer

PARAMETER, OUTPUT, BASE = "explain", "contributions", "base"


class _Asks(msgspec.Struct):
    parameters: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Asks).decode


def wanted(body: bytes) -> bool:
    """Whether a request asks for contributions: `"parameters": {"explain": true}`. A body that is no request is somebody else's to refuse."""
    if f'"{PARAMETER}"'.encode() not in body:
        return False
    try:
        given = (_decode(body).parameters or {}).get(PARAMETER, False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(given, bool):
        raise InvalidError(f"the parameter {PARAMETER!r} is true or false, not {given!r}")
    return given


def require(scorer: Scorer, version: int | None) -> None:
    """Raise `InvalidError` now if the model that is to answer cannot say, before it answers."""
    lineup = scorer.lineup
    chosen = next((d for d in lineup.deployments if d.version == version), lineup.live)
    model = None if chosen is None else lineup.models.get(chosen.digest)
    if model is not None:
        model.explain([[None] * len(model.features)])


def tensor(scorer: Scorer, answers: Sequence[Prediction]) -> dict[str, Any]:
    """The output `contributions` [rows, features + 1] of answered rows; its parameter `columns` names them, the last is `base`."""
    models = {(d.model, d.version): scorer.lineup.models.get(d.digest) for d in scorer.lineup.deployments}
    rows, names = list[Any](), set[tuple[str, ...]]()
    for answer in answers:
        model = models.get((answer.model, answer.version))
        if model is None:
            raise UnavailableError("the version that answered was replaced meanwhile; ask again")
        names.add(tuple(answer.columns))
        rows.append((model, answer.values))
    if len(names) > 1:
        raise InvalidError("versions with different features answered these rows; name one in the path, or send a row at a time")
    data = np.vstack(_by_model(rows))
    columns = [*names.pop(), BASE]
    return {
        "name": OUTPUT,
        "datatype": "FP64",
        "shape": list(data.shape),
        "parameters": {"columns": ", ".join(columns)},
        "data": data.ravel().tolist(),
    }


def _by_model(rows: Sequence[tuple[LoadedModel, Any]]) -> list[Matrix]:
    """Neighbouring rows of one model together."""
    out: list[Matrix] = []
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i][0] is not rows[start][0]:
            out.append(rows[start][0].explain([values for _model, values in rows[start:i]]))
            start = i
    return out
