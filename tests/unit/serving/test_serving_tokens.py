import time
from pathlib import Path

import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError, LedgerGoneError, NotFoundError, RefusedError
from tidemill.core.instants import SECOND_US
from tidemill.ledger.store import Ledger
from tidemill.serving.tokens import ALLOWED, ROLES, Access, Tokens


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_a_secret_is_verified_and_not_kept(ledger: Ledger, tmp_path: Path) -> None:
    tokens = Tokens(ledger, ReplayClock(1))
    secret = tokens.make("ci", "ml-engineer")
    assert tokens.verify(secret) == Access("ci", "ml-engineer")
    assert [tokens.verify(wrong) for wrong in (None, "", secret[:-1], secret + "x", secret.upper(), "tm_\udcff")] == [None] * 6
    ledger.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    assert secret.encode() not in stored
    assert secret[3:].encode() not in stored


def test_secrets_differ(ledger: Ledger) -> None:
    tokens = Tokens(ledger, ReplayClock(1))
    made = {tokens.make("a") for _ in range(20)}
    assert len(made) == 20
    assert all(len(secret) >= 43 for secret in made)


def test_one_made_by_another_process_is_known_at_once_and_a_revoked_one_within_the_ttl(ledger: Ledger) -> None:
    clock = ReplayClock(0)
    here, there = Tokens(ledger, clock, ttl_us=2_000_000), Tokens(ledger, clock)
    assert here.verify("tm_x") is None
    clock.advance_to(500_000)
    secret = there.make("b", "viewer")
    assert here.verify(secret) == Access("b", "viewer")
    assert there.revoke("b") == 1
    clock.advance_to(3_000_000)
    assert here.verify(secret) is None


def test_hashes_are_read_again_before_anybody_has_to_wait(ledger: Ledger) -> None:
    clock = ReplayClock(0)
    here, there = Tokens(ledger, clock, ttl_us=2_000_000), Tokens(ledger, clock)
    secret = there.make("b", "viewer")
    assert here.verify(secret) == Access("b", "viewer")
    there.revoke("b")
    clock.advance_to(900_000)
    assert here.verify(secret) is not None
    assert here._reading is None
    clock.advance_to(1_100_000)
    assert here.verify(secret) is not None, "nobody waits for the ledger"
    for _ in range(500):
        if here.verify(secret) is None:
            break
        time.sleep(0.01)
    assert here.verify(secret) is None, "well within the ttl"


def test_wrong_names_and_roles(ledger: Ledger) -> None:
    tokens = Tokens(ledger, ReplayClock(1))
    with pytest.raises(NotFoundError, match="did you mean 'admin'"):
        tokens.make("a", "admi")
    with pytest.raises(InvalidError, match="name"):
        tokens.make("", "admin")
    with pytest.raises(NotFoundError, match="no token named"):
        tokens.revoke("nobody")


def test_listing_and_audit(ledger: Ledger) -> None:
    tokens = Tokens(ledger, ReplayClock(7))
    tokens.make("b", "viewer", actor="ann")
    tokens.make("a", "admin")
    assert tokens.listed() == [Access("a", "admin"), Access("b", "viewer")]
    with ledger.read() as db:
        events = db.exec_driver_sql("SELECT kind, subject, actor, at_us FROM event ORDER BY seq").all()
    assert [tuple(event) for event in events] == [("token.made", "b", "ann", 7), ("token.made", "a", "tidemill", 7)]


def test_roles_grow_and_only_admin_administers() -> None:
    assert set(ALLOWED) == set(ROLES)
    assert [role for role in ROLES if "administer" in ALLOWED[role]] == ["admin"]
    assert [role for role in ROLES if "deploy" in ALLOWED[role]] == ["ml-engineer", "admin"]
    assert all("read" in actions for actions in ALLOWED.values())
    with pytest.raises(RefusedError, match=r"'v' has role viewer, which may not deploy.*ml-engineer, admin"):
        Access("v", "viewer").require("deploy")


def test_one_that_is_revoked_while_the_ledger_is_gone_holds_until_it_is_back_or_for_as_long_as_is_trusted(
    ledger: Ledger, tmp_path: Path
) -> None:
    clock = ReplayClock(0)
    for_ever, for_an_hour = Tokens(ledger, clock), Tokens(ledger, clock, trust_us=3600 * SECOND_US)
    secret, kept = for_ever.make("gone", "viewer"), for_ever.make("kept", "viewer")
    assert for_ever.verify(secret) == for_an_hour.verify(secret) == Access("gone", "viewer")
    moved = (tmp_path / "ledger.db").rename(tmp_path / "elsewhere")
    clock.advance_to(3000 * SECOND_US)
    assert for_ever.verify(secret) == for_an_hour.verify(secret) == Access("gone", "viewer")
    clock.advance_to(3601 * SECOND_US)
    assert for_ever.verify(secret) == Access("gone", "viewer")
    with pytest.raises(LedgerGoneError, match="cannot be told"):
        for_an_hour.verify(kept)
    moved.rename(tmp_path / "ledger.db")
    Tokens(ledger, clock).revoke("gone")  # by whoever has the ledger
    clock.advance_to(3603 * SECOND_US)
    time.sleep(0.6)  # the ledger is asked again half a second after it said no
    assert (for_ever.verify(secret), for_an_hour.verify(secret)) == (None, None), "at once"
    assert for_ever.verify(kept) == for_an_hour.verify(kept) == Access("kept", "viewer")
