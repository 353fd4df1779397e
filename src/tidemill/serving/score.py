"""Answering: route each request, score it, score it again by whoever is being compared, remember both.

One `Scorer` serves a replayed day in one call and a live server in thousands of small ones.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from time import monotonic, perf_counter_ns
from typing import Any, NamedTuple

from tidemill.core.definitions import Service
from tidemill.core.errors import CorruptError, InvalidError, LedgerGoneError, TidemillError, UnavailableError, not_found
from tidemill.core.instants import parse_duration
from tidemill.registry.ports import ModelRegistry
from tidemill.serving.node_errors import ScoreError
from tidemill.serving.pins import PlanFor
from tidemill.serving.plan import DegradedInputs, Plan
from tidemill.serving.ports import Deployment, LoadedModel, Prediction, PredictionLog, Role, Router, Runtime
from tidemill.serving.sticky import keys_of
from tidemill.serving.tally import Tally
from tidemill.versioning.ports import BlobStore

logger = logging.getLogger(__name__)
Inputs = Sequence[tuple[Any, ...]]
RETRY_S = 10.0
"""How often a canary or shadow that could not be loaded is tried again."""


@dataclass(frozen=True)
class Lineup:
    """Who serves now: deployments, their loaded models and how these get their inputs (by digest), replaced as a whole.

    Requests in flight keep the one they began with.
    """

    deployments: tuple[Deployment, ...] = ()
    models: Mapping[str, LoadedModel] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    apart: bool = False
    """Whether a model runs in another process, so that whoever waits for it must not hold up others."""

    @cached_property
    def live(self) -> Deployment | None:
        """Who answers what no canary takes."""
        return next((d for d in self.deployments if d.role == "live"), None)

    @cached_property
    def routed(self) -> bool:
        """Whether a canary takes part, so that each request has to be routed by its id."""
        return any(d.role == "canary" and d.weight > 0 for d in self.deployments)

    def compared(self, answered: Deployment) -> list[Deployment]:
        """Who else scores a request that `answered` answered: every shadow; and, while there is a canary, live and canaries in turn."""
        others = [d for d in self.deployments if d.id != answered.id]
        return others if any(d.role == "canary" for d in self.deployments) else [d for d in others if d.role in ("shadow", "warm")]


class Rows(NamedTuple):
    """Requests as columns of one length."""

    ids: Sequence[str]
    inputs: Inputs
    requests: Sequence[Mapping[str, Any]]
    at_us: Sequence[int]

    def pick(self, places: Sequence[int]) -> Rows:
        """Some of them."""
        return Rows(
            [self.ids[i] for i in places],
            [self.inputs[i] for i in places],
            [self.requests[i] for i in places],
            [self.at_us[i] for i in places],
        )


class Scorer:
    """A service's answers. Thread-safe; `refresh` may run while others answer.

    Models are loaded, verified by digest and warmed before they take a request; the change is one assignment, so a request sees
    the line-up before it or after it.
    """

    def __init__(
        self,
        service: Service,
        plan: Plan,
        router: Router,
        runtime: Runtime,
        registry: ModelRegistry,
        blobs: BlobStore,
        log: PredictionLog,
        plan_for: PlanFor | None = None,
    ) -> None:
        self.service = service
        self._plan = plan
        self._plan_for = plan_for
        self.registry = registry
        self.log = log
        self._router = router
        self._runtime = runtime
        self._blobs = blobs
        self._refreshing = threading.Lock()
        self._lineup = Lineup()
        self.tally = Tally(parse_duration(service.rollout.slow) if service.rollout.slow else 0)
        self._sticky = service.rollout.sticky if service.rollout.sticky != service.key else ""
        self.timer: Callable[[], int] = perf_counter_ns
        """The clock of latencies, in nanoseconds."""
        self.released = False
        self.loading = False
        self._again_at = 0.0

    @property
    def lineup(self) -> Lineup:
        """Who serves now."""
        return self._lineup

    @property
    def plan(self) -> Plan:
        """How the live model gets its inputs; requests are understood by it."""
        return self.plan_of(self._lineup, self._lineup.live)

    def plan_of(self, lineup: Lineup, deployment: Deployment | None) -> Plan:
        """How a deployment's model gets its inputs."""
        return self._plan if deployment is None else lineup.plans.get(deployment.digest, self._plan)

    def refresh(self, *, again: bool = False) -> bool:
        """Take over the router's deployments; say whether anything changed. `again`: also when its models were released.

        A canary or shadow that cannot be loaded is left out, its reason in `lineup.failures`; its requests go to live.

        Raises:
            TidemillError: the live model cannot be loaded (`CorruptError`, `RefusedError` …). Whoever served before goes on.
        """
        with self._refreshing:
            if self.released and not again:
                return False
            self.released = False
            before = self._lineup
            wanted = self._wanted()
            same = tuple(d for d in wanted if d.id not in before.failures) == before.deployments
            if same and self._is_current() and not self._try_again(before, wanted):
                return False
            models: dict[str, LoadedModel] = {}
            plans: dict[str, Plan] = {}
            failures: dict[str, str] = {}
            for deployment in wanted:
                try:
                    models[deployment.digest], plans[deployment.digest] = self._prepared(deployment, {**before.models, **models})
                except TidemillError as error:
                    if deployment.role == "live" or isinstance(error, LedgerGoneError):
                        raise
                    failures[deployment.id] = str(error)
                    if before.failures.get(deployment.id) != str(error):
                        extra = {"service": self.service.name, "deployment": deployment.id, "reason": str(error)}
                        logger.error("deployment.refused", extra=extra)
            self._again_at = monotonic() + RETRY_S
            taken = tuple(d for d in wanted if d.id not in failures)
            changed = taken != before.deployments or not self._is_current()
            self._taken(Lineup(taken, models, failures, plans, any(model.apart for model in models.values())))
            return changed

    def _try_again(self, before: Lineup, wanted: Sequence[Deployment]) -> bool:
        """Whether those that could not be loaded are worth another look: what they lacked may be there by now, or they are not wanted any more."""
        return bool(before.failures) and (monotonic() >= self._again_at or not before.failures.keys() <= {d.id for d in wanted})

    def _wanted(self) -> list[Deployment]:
        """Who is to serve."""
        return self._router.deployments(self.service.name)

    def _is_current(self) -> bool:
        """Whether nothing but deployments could have changed."""
        return True

    def _taken(self, lineup: Lineup) -> None:
        """From now on this line-up answers."""
        self._lineup = lineup

    def _prepared(self, deployment: Deployment, models: Mapping[str, LoadedModel]) -> tuple[LoadedModel, Plan]:
        """A deployment's model, one of those that are loaded if it is there, and how it gets its inputs."""
        version = self.registry.get(deployment.model, deployment.version)
        plan = self._plan_for(version.meta) if self._plan_for is not None else self._plan
        return models.get(deployment.digest) or self._load(deployment, version.digest, plan), plan

    def release(self) -> None:
        """Let go of all models; nothing answers until `refresh(again=True)`."""
        with self._refreshing:
            self._lineup, self.released = Lineup(), True

    def _load(self, deployment: Deployment, registered: str, plan: Plan) -> LoadedModel:
        if registered != deployment.digest:
            raise CorruptError(
                f"{deployment.model} version {deployment.version} is registered as {registered} and deployed as {deployment.digest}; "
                "deploy the registered artifact"
            )
        model = self._loaded(deployment.digest)
        if model.features != plan.columns:
            missing = sorted(set(model.features) - set(plan.columns))
            raise InvalidError(
                f"{deployment.model} version {deployment.version} was trained on other columns than {self.service.name} has now"
                f"{': it needs ' + ', '.join(missing) if missing else ''}; retrain it or restore the service's features"
            )
        return model

    def _loaded(self, digest: str) -> LoadedModel:
        """A model, verified and warm. `loading` says meanwhile why nothing else goes on."""
        self.loading = True
        try:
            return self._runtime.load(self._blobs.fetch(digest))
        finally:
            self.loading = False

    def answer(self, requests: Sequence[Mapping[str, Any]], inputs: Inputs, ids: Sequence[str], at_us: Sequence[int]) -> list[Prediction]:
        """Answer requests and remember the answers and all comparisons durably.

        Args:
            requests: as they came; kept with the prediction.
            inputs: from `Plan.inputs`, aligned.
            ids: one a request; the same id is answered by the same deployment.
            at_us: when each is answered.

        Returns:
            One answer a request, in order.

        Raises:
            UnavailableError: nothing is live, or the log does not take it (safe to retry: a prediction is kept once).
        """
        lineup = self._lineup
        answers = self.respond([self.plan.kept(r) for r in requests], inputs, ids, at_us, lineup=lineup)
        self.log.append(answers + self.compare(answers, lineup=lineup))
        return answers

    def respond(
        self,
        requests: Sequence[Mapping[str, Any]],
        inputs: Inputs,
        ids: Sequence[str],
        at_us: Sequence[int],
        *,
        lineup: Lineup | None = None,
        version: int | None = None,
    ) -> list[Prediction]:
        """Answer without logging or comparing. `version` asks for one deployed version instead of the router's choice.

        What a canary fails to answer, the live version answers.
        """
        lineup = lineup or self._lineup
        rows, made_by = Rows(ids, inputs, requests, at_us), self.plan_of(lineup, lineup.live)
        if version is None and len(lineup.deployments) == 1 and lineup.live is not None and not self._sticky:  # nobody to choose among
            return self._score(lineup, lineup.live, "live", rows)
        out: list[Prediction | None] = [None] * len(ids)
        keys = keys_of(self._sticky, rows.ids, rows.requests, rows.inputs, made_by.columns) if self._sticky else ids
        for deployment, places in self._route(lineup, keys, version):
            chosen = rows if len(places) == len(ids) else rows.pick(places)
            for i, prediction in zip(places, self._answered(lineup, deployment, chosen, made_by), strict=True):
                out[i] = prediction
        return [prediction for prediction in out if prediction is not None]

    def _answered(self, lineup: Lineup, deployment: Deployment, rows: Rows, made_by: Plan) -> list[Prediction]:
        live = lineup.live
        try:
            answerer, chosen = self._with_inputs(lineup, deployment, rows, made_by)
            return self._score(lineup, answerer, answerer.answers_as, chosen)
        except Exception as error:
            if deployment.role != "canary" or live is None:
                raise
            logger.warning("canary.failed", extra={"service": self.service.name, "deployment": deployment.id, "reason": str(error)})
            return self._score(lineup, live, "live", rows)

    def _with_inputs(self, lineup: Lineup, deployment: Deployment, rows: Rows, made_by: Plan) -> tuple[Deployment, Rows]:
        """The rows with the inputs that a deployment's model reads. Where a request brought inputs along, they are the live model's, which answers."""
        plan = self.plan_of(lineup, deployment)
        if plan is made_by:
            return deployment, rows
        if lineup.live is not None and not all(map(plan.can_look_up, rows.requests)):
            return lineup.live, rows
        return deployment, rows._replace(inputs=plan.inputs(rows.requests, rows.at_us))

    def _route(self, lineup: Lineup, ids: Sequence[str], version: int | None) -> list[tuple[Deployment, Sequence[int]]]:
        if version is not None:
            chosen = [d for d in lineup.deployments if d.version == version]
            if not chosen:
                raise not_found(f"deployed version of {self.service.name}", str(version), [str(d.version) for d in lineup.deployments])
            return [(chosen[0], range(len(ids)))]
        live = lineup.live
        if live is None:
            raise UnavailableError(f"no live deployment answers for {self.service.name!r} yet; deploy a model version, then ask again")
        if not lineup.routed:
            return [(live, range(len(ids)))]
        places: dict[str, list[int]] = {}
        by_id = {d.id: d for d in lineup.deployments}
        for i, key in enumerate(ids):
            places.setdefault(self._router.choose(lineup.deployments, key).id, []).append(i)
        return [(by_id[name], found) for name, found in places.items()]

    def _score(self, lineup: Lineup, deployment: Deployment, role: Role, rows: Rows, tally: Tally | None = None) -> list[Prediction]:
        """Scored by a deployment. What versions of a rollout did is counted in `tally`, or the scorer's own."""
        started = self.timer()
        if len(lineup.deployments) == 1:
            scores = self._predicted(deployment, lineup.models[deployment.digest], rows.inputs)
            latency_us = (self.timer() - started) // 1000
        else:
            tally = tally or self.tally
            scores = self._judged(deployment, role, lineup.models[deployment.digest], rows.inputs, tally)
            latency_us = (self.timer() - started) // 1000
            tally.answered(deployment.id, role, latency_us)
        service, model, version, columns = self.service.name, deployment.model, deployment.version, self.plan_of(lineup, deployment).columns
        return [
            Prediction(
                key,
                service,
                model,
                version,
                role,
                at,
                score,
                columns,
                values,
                request,
                latency_us,
                values.mode if isinstance(values, DegradedInputs) else "",
            )
            for key, values, request, at, score in zip(*rows, scores, strict=True)
        ]

    def _judged(self, deployment: Deployment, role: Role, model: LoadedModel, inputs: Inputs, tally: Tally) -> list[float]:
        """Scores by a version of a rollout: what raises, or is no number, is counted as its failure."""
        try:
            return self._predicted(deployment, model, inputs)
        except Exception:
            tally.failed(deployment.id, role)
            raise

    def _predicted(self, deployment: Deployment, model: LoadedModel, inputs: Inputs) -> list[float]:
        scores: list[float] = model.predict(inputs).tolist()
        if not all(map(isfinite, scores)):
            raise ScoreError(self.service.name, deployment.version)
        return scores

    def compare(self, answers: Sequence[Prediction], *, lineup: Lineup | None = None, tally: Tally | None = None) -> list[Prediction]:
        """Score answered requests by every deployment that is compared with the one that answered; role shadow, same order.

        What one of them fails at is left out unless all do. With a `tally` of its own, all or nothing: the first failure is raised.
        """
        lineup = lineup or self._lineup
        if len(lineup.deployments) < 2:
            return []
        out: list[Prediction] = []
        by_version = {(d.model, d.version): d for d in lineup.deployments}
        groups: dict[str, list[Prediction]] = {}
        others: dict[str, Deployment] = {}
        for prediction in answers:
            answered = by_version.get((prediction.model, prediction.version))
            for other in lineup.compared(answered) if answered else ():
                others[other.id] = other
                groups.setdefault(other.id, []).append(prediction)
        broken: Exception | None = None
        for name, rows in groups.items():
            try:
                out += self._compared(lineup, others[name], rows, by_version, tally)
            except Exception as error:
                if tally is not None:
                    raise
                broken = error  # one shadow that fails does not take the others along
        if broken is not None and not out:
            raise broken
        return out

    def _compared(
        self,
        lineup: Lineup,
        other: Deployment,
        answers: Sequence[Prediction],
        by_version: Mapping[tuple[str, int], Deployment],
        tally: Tally | None,
    ) -> list[Prediction]:
        """The same requests scored by another deployment, from the inputs that its own model reads."""
        out: list[Prediction] = []
        plan = self.plan_of(lineup, other)
        same, looked_up = list[Prediction](), list[Prediction]()
        for prediction in answers:
            if self.plan_of(lineup, by_version[prediction.model, prediction.version]) is plan:
                same.append(prediction)
            elif plan.can_look_up(prediction.request):
                looked_up.append(prediction)
        for rows, fresh in ((same, False), (looked_up, True)):
            if rows:
                requests, at_us = [p.request for p in rows], [p.at_us for p in rows]
                inputs = plan.inputs(requests, at_us) if fresh else [p.values for p in rows]
                out += self._score(lineup, other, "shadow", Rows([p.id for p in rows], inputs, requests, at_us), tally)
        return out
