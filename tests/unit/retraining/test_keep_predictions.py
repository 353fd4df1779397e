"""The loop moves predictions into their table and forgets them when it is time."""

from __future__ import annotations

from dataclasses import replace

from tests.support.loop_world import START, World

from tidemill.core.instants import DAY_US
from tidemill.retraining.loop import keep_predictions
from tidemill.serving import ArchivedLog, Keeping, table_of
from tidemill.versioning.embedded import IcebergTableStore


def test_a_turn_archives_what_is_old_and_later_forgets_it(world: World) -> None:
    tables = IcebergTableStore(world.path / "lake", f"sqlite:///{world.path}/lake/catalog.db", world.clock)
    world.publish()
    from tidemill.retraining.reconcile import reconcile

    reconcile(world.loop, world.service, world.clock.now_us())
    world.serve(START + 4 * DAY_US)
    hot = world.loop.log
    before = list(hot.read("delay"))
    world.loop = replace(world.loop, tables=tables, log=ArchivedLog(hot, lambda: tables), keeping=Keeping(hot_us=DAY_US, keep_us=0))
    assert keep_predictions(world.loop) == 3 * 240
    assert keep_predictions(world.loop) == 0
    assert list(world.loop.log.read("delay")) == before
    assert tables.snapshots(table_of("delay"))[0].rows == 720
    world.loop = replace(world.loop, keeping=Keeping(hot_us=DAY_US, keep_us=2 * DAY_US))
    keep_predictions(world.loop)
    assert [p.id for p in world.loop.log.read("delay")] == [p.id for p in before if p.at_us >= START + 2 * DAY_US]
    assert tables.snapshots(table_of("delay"))[0].rows == 240
    world.clock.advance_to(START + 4 * DAY_US + 1000)
    keep_predictions(world.loop)
    assert len(list(world.loop.log.read("delay"))) == 480, "once a day is enough"
