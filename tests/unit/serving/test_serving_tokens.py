import time
from pathlib import Path

import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError, NotFoundError, RefusedError
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
