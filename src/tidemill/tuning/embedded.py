"""Search with Optuna's TPE, each trial kept in SQLite once it has ended."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.core import digests
from tidemill.core.errors import InvalidError
from tidemill.tuning.ports import Range, Study, Trial

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)
_TABLE = """CREATE TABLE IF NOT EXISTS trial (study TEXT, number INTEGER, params TEXT NOT NULL, value REAL, state TEXT NOT NULL,
    at_us INTEGER NOT NULL, error TEXT, PRIMARY KEY (study, number)) WITHOUT ROWID"""


class OptunaTuner:
    """A `Tuner` over Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Trials run one after another. Each gets a sampler seeded by its number, so what it tries depends only on the trials before it, and a
    study that was killed goes on as if it had not been.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute(_TABLE)

    def search(
        self,
        study: str,
        objective: Callable[[Mapping[str, Any], Trial], float],
        space: Mapping[str, Range],
        *,
        trials: int,
        seed: int,
        start: tuple[Mapping[str, Any], ...] = (),
        now_us: int = 0,
    ) -> Study:
        import optuna

        _check(space, start)
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            distributions = {name: _distribution(found) for name, found in space.items()}
            known = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
            done = self._trials(study)
            for trial in done:
                known.add_trial(_frozen(trial, distributions))
            for number in range(len(done), trials):
                done.append(self._one(study, number, known, objective, distributions, seed, start, now_us))
        finally:
            optuna.logging.set_verbosity(level)
        complete = [trial for trial in done if trial.value is not None and trial.state == "complete"]
        if not complete:
            raise InvalidError(f"all {len(done)} trials of study {study!r} failed; the first one: {self._error(study)}")
        best = min(complete, key=lambda trial: (trial.value if trial.value is not None else 0.0, trial.number))
        return Study(study, best.params, float(best.value or 0.0), tuple(done))

    def _one(
        self,
        study: str,
        number: int,
        known: optuna.Study,
        objective: Callable[[Mapping[str, Any], Trial], float],
        distributions: Mapping[str, Any],
        seed: int,
        start: tuple[Mapping[str, Any], ...],
        now_us: int,
    ) -> Trial:
        import optuna

        known.sampler = optuna.samplers.TPESampler(seed=int(digests.of_json([seed, number])[7:14], 16), n_startup_trials=8)
        if number < len(start):
            known.enqueue_trial(dict(start[number]))
        asked = known.ask(dict(distributions))
        params = dict(asked.params)
        error: str | None = None
        value: float | None = None
        try:
            value = float(objective(params, Trial(number, params, None, "running")))
            if value != value or value in (float("inf"), float("-inf")):
                value, error = None, f"the objective is {value}"
        except Exception as raised:  # noqa: BLE001 - the border to users' code: a trial that raises is a failed trial
            error = f"{type(raised).__name__}: {raised}"
        if value is None:
            logger.warning("trial.failed", extra={"study": study, "trial": number, "error": error})
            known.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            known.tell(asked, value)
        trial = Trial(number, params, value, "failed" if value is None else "complete")
        with self._open() as db:
            row = (study, number, json.dumps(params, sort_keys=True), value, trial.state, now_us, error)
            db.execute("INSERT OR IGNORE INTO trial VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return trial

    def _trials(self, study: str) -> list[Trial]:
        with self._open() as db:
            rows = db.execute("SELECT number, params, value, state FROM trial WHERE study = ? ORDER BY number", (study,)).fetchall()
        return [Trial(number, json.loads(params), value, state) for number, params, value, state in rows]

    def _error(self, study: str) -> str:
        with self._open() as db:
            row = db.execute("SELECT error FROM trial WHERE study = ? ORDER BY number LIMIT 1", (study,)).fetchone()
        return str(row[0]) if row else "there was none"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            yield db


def _check(space: Mapping[str, Range], start: tuple[Mapping[str, Any], ...]) -> None:
    if not space:
        raise InvalidError("a search needs at least one parameter")
    for point in start:
        if unknown := sorted(set(point) - set(space)):
            raise InvalidError(f"the start point has {', '.join(unknown)}, which is not searched; searched: {', '.join(space)}")
        for name, value in point.items():
            found = space[name]
            inside = value in found.choices if found.kind == "choice" else found.low <= value <= found.high
            if not inside:
                raise InvalidError(f"the start point's {name} = {value!r} is outside of its range")


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if found.kind == "integer":
        return distributions.IntDistribution(int(found.low), int(found.high))
    if found.kind == "choice":
        return distributions.CategoricalDistribution(found.choices)
    return distributions.FloatDistribution(found.low, found.high, log=found.kind == "log")


def _frozen(trial: Trial, distributions: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = TrialState.COMPLETE if trial.value is not None else TrialState.FAIL
    return create_trial(params=dict(trial.params), distributions=dict(distributions), value=trial.value, state=state)
