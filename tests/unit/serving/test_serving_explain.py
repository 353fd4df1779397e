"""Contributions on request, and nothing but answers without."""

import asyncio
import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from tests.support.serving_kit import CATEGORIES, COLUMNS, FULL, LOOKUP, Local, Reply, Stack, body

from tidemill.training.package import pack_model
from tidemill.training.ports import Model


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A service whose live model is made of trees."""
    stack = Stack(tmp_path)
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(size=(500, 5))])
    x[:, 1], x[:, 2] = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(x, (x[:, 0] + x[:, 2] > 0.5).astype(float)), 20)
    categories = {name: tuple(values) for name, values in CATEGORIES.items()}
    (tmp_path / "trees").mkdir()
    pack_model(
        Model("lightgbm", booster.model_to_string().encode(), COLUMNS, categories, meta={"example": [[1.0, "clear", "AA", 3.0, 2.0]]}),
        tmp_path / "trees",
    )
    stack.add(1, folder=tmp_path / "trees")
    stack.deploy(live=1)
    return stack


def ask(stack: Stack, text: bytes, path: str = "/v2/models/late/infer") -> Reply:
    async def run() -> Reply:
        async with Local(stack) as local:
            return await local.infer(text, path)

    return asyncio.run(run())


def outputs(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.answer
    return {o["name"]: o for o in reply.json()["outputs"]}


@pytest.mark.parametrize("path", ["/v2/models/late/infer", "/v2/models/late/versions/1/infer"])
@pytest.mark.parametrize(("values", "rows"), [(FULL, 3), (LOOKUP, 1)])
def test_contributions_add_up_to_the_answer(stack: Stack, path: str, values: dict[str, Any], rows: int) -> None:
    found = outputs(ask(stack, body(values, rows, parameters={"explain": True}), path))
    told, p = found["contributions"], np.array(found["score"]["data"])
    assert told["shape"] == [rows, len(COLUMNS) + 1]
    assert told["parameters"]["columns"] == ", ".join([*COLUMNS, "base"])
    total = np.array(told["data"]).reshape(told["shape"]).sum(axis=1)
    np.testing.assert_allclose(total, np.log(p / (1 - p)), atol=1e-9)


def test_without_asking_nothing_is_told(stack: Stack) -> None:
    for more in ({}, {"parameters": {"explain": False}}, {"parameters": {"other": "explain"}}):
        assert set(outputs(ask(stack, body(FULL, **more)))) == {"score", "id"}


def test_with_binary_outputs(stack: Stack) -> None:
    reply = ask(stack, body(FULL, 2, parameters={"explain": True, "binary_data_output": True}))
    assert reply.status == 200
    head = dict(reply.headers)["inference-header-content-length"]
    told = json.loads(reply.answer[: int(head)])["outputs"][-1]
    assert (told["name"], told["parameters"]["binary_data_size"]) == ("contributions", 8 * 2 * (len(COLUMNS) + 1))


@pytest.mark.parametrize("wrong", [1, "yes", None, []])
def test_another_kind_of_wish_is_named(stack: Stack, wrong: Any) -> None:
    reply = ask(stack, body(FULL, parameters={"explain": wrong}))
    assert (reply.status, "true or false" in reply.json()["error"]) == (400, True)


def test_a_model_that_cannot_say_answers_400_and_logs_nothing(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.add(1)
    stack.deploy(live=1)
    reply = ask(stack, body(FULL, parameters={"explain": True}))
    assert (reply.status, "cannot say" in reply.json()["error"]) == (400, True)
    assert list(stack.log.read("late")) == []
    assert ask(stack, body(FULL)).status == 200


def test_the_reasons_have_to_come_in_time_too(stack: Stack) -> None:
    reply = ask(stack, body(FULL, parameters={"explain": True, "timeout": 1}))
    assert (reply.status, "within 1e-06 s" in reply.json()["error"]) == (504, True)
    assert list(stack.log.read("late")) == []


def test_over_grpc_too(stack: Stack) -> None:
    grpc = pytest.importorskip("tests.unit.serving.test_serving_grpc")
    sent = grpc.typed(FULL, 2, parameters={"explain": grpc.message("InferParameter")(bool_param=True)})
    got = grpc.run(stack, lambda _local, client: client.ask("ModelInfer", **sent))
    score, _id, told = got.outputs
    assert (told.name, list(told.shape)) == ("contributions", [2, len(COLUMNS) + 1])
    assert told.parameters["columns"].string_param == ", ".join([*COLUMNS, "base"])
    p = np.array(score.contents.fp64_contents)
    np.testing.assert_allclose(np.array(told.contents.fp64_contents).reshape(2, -1).sum(axis=1), np.log(p / (1 - p)), atol=1e-9)
