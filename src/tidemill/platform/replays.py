"""Sets up a replay: one platform per policy on one clock, all sharing data, features and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.platform.lanes import Opening, RemoteLane, local_lane
from tidemill.platform.root import Platform

if TYPE_CHECKING:
    from tidemill.retraining.replay import Replay

Progress = Callable[[int, int, str], None]


def replay(
    project: Path,
    *,
    from_us: int,
    until_us: int,
    policies: Sequence[str],
    overrides: Sequence[str] = (),
    service: str | None = None,
    progress: Progress = lambda _done, _of, _what: None,
    home: Path | None = None,
) -> Mapping[str, Any]:
    """Replay history under each policy and compare them.

    Args:
        project: the project's folder.
        from_us: first instant to serve.
        until_us: where to stop, not included.
        policies: names of `conf/retraining/*.yaml`; the first one's ledger, models and predictions are the project's own.
        overrides: Hydra overrides for all of them.
        service: which service; the only one when None.
        progress: told (ticks done, ticks in all, the day).
        home: where the project's files go, instead of the configured home.

    Returns:
        The summary, as the console's replay page reads it.

    Raises:
        InvalidError: the times are the wrong way round, or the project has a life of its own that a replay would mix with.
    """
    from tidemill.retraining import replay as history

    with ExitStack() as opened:
        prepared = prepare(
            opened, project, from_us=from_us, until_us=until_us, policies=policies, overrides=overrides, service=service, home=home
        )
        return history.run(prepared, progress)


def prepare(
    opened: ExitStack,
    project: Path,
    *,
    from_us: int,
    until_us: int,
    policies: Sequence[str],
    overrides: Sequence[str] = (),
    service: str | None = None,
    home: Path | None = None,
) -> Replay:
    """Open a platform for what policies share and a lane for each, read the world, and set everything up for `history.run`.

    A policy alone goes through history here; several have a process each.

    What is opened is closed with `opened`.
    """
    from tidemill.features import apply_on_demand
    from tidemill.retraining import loop as stages
    from tidemill.retraining import replay as history
    from tidemill.retraining import world
    from tidemill.serving import compile_plan

    if until_us <= from_us:
        raise InvalidError("the replay would end before it starts; --to must be after --from")
    names = list(dict.fromkeys(policies))
    clock = ReplayClock(0)
    main = opened.enter_context(closing(Platform.open(project, [*overrides, f"retraining={names[0]}"], clock=clock, home=home)))
    asked = main.definitions.service(service)
    _refuse_mixing(main, asked)
    stages.learn_from_sources(main.loop)
    told = Opening(str(main.project), tuple(overrides), asked.name, str(main.home.resolve()), names[0], names[0], len(names))
    apart = [opened.enter_context(closing(RemoteLane(dataclasses.replace(told, name=n)))) for n in names] if len(names) > 1 else []
    past = world.from_sources(main.definitions.tables, main.sources, main.auditor)
    if asked.spine.name not in past:
        raise InvalidError(f"there are no rows in {asked.spine.source!r} to replay; write the data first, then replay")
    first = min(int(track.known_us[0]) for name, track in past.items() if name != asked.spine.name or len(past) == 1)
    plan = compile_plan(asked, main.processor, apply_on_demand)
    return history.Replay(
        loop=main.loop,
        service=asked,
        clock=clock,
        world=past,
        plan=plan,
        lanes=apart or [local_lane(names[0], main, asked, plan)],
        primary=names[0],
        from_us=from_us,
        until_us=until_us,
        first_us=min(first // DAY_US * DAY_US, from_us),
    )


def _refuse_mixing(platform: Platform, service: Service) -> None:
    """A home with runs that no replay made is a project in use."""
    with platform.ledger.read() as db:
        runs = db.execute(sa.select(sa.func.count()).select_from(schema.run).where(schema.run.c.service == service.name)).scalar_one()
        replays = db.execute(
            sa.select(sa.func.count()).select_from(schema.state).where(schema.state.c.name.like("replay-tick:%"))
        ).scalar_one()
    if runs and not replays:
        raise InvalidError(f"{platform.home} holds {runs} runs of the present; replay into a home of its own: add -o home=.tidemill-replay")
