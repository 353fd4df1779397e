"""The peer: what a user writes by hand to serve LightGBM over HTTP, in the two usual ways. It logs nothing.

`/predict` is a plain function (FastAPI runs it in its thread pool), `/predict-async` runs in the event loop.
"""

import os

import lightgbm
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

model = lightgbm.Booster(model_file=os.environ["BENCH_MODEL"])
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


class Scores(BaseModel):
    scores: list[float]


def _score(rows: list[list[float]]) -> Scores:
    return Scores(scores=model.predict(np.asarray(rows, dtype=np.float64), num_threads=1).tolist())


@app.post("/predict")
def predict(body: Rows) -> Scores:
    return _score(body.rows)


@app.post("/predict-async")
async def predict_async(body: Rows) -> Scores:
    return _score(body.rows)
