"""The embedded defaults keep the monitoring contracts."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import RefusedError, UnavailableError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.monitoring.embedded import LedgerAlerts, LedgerMetrics, SqliteLabelStore, WebhookAlerts
from tidemill.monitoring.ports import AlertSink, LabelStore, MetricSink, MetricSource
from tidemill.testing.monitoring import AlertSinkContract, LabelStoreContract, MetricSinkContract


class TestSqliteLabelStore(LabelStoreContract):
    @pytest.fixture
    def new_store(self, tmp_path: Path) -> Callable[[], LabelStore]:
        paths = iter(tmp_path / f"labels-{i}.db" for i in range(1000))
        return lambda: SqliteLabelStore(next(paths))

    @pytest.fixture
    def opener(self) -> Callable[[LabelStore], Callable[[], LabelStore]]:
        def opener(store: LabelStore) -> Callable[[], LabelStore]:
            assert isinstance(store, SqliteLabelStore)
            return partial(SqliteLabelStore, store.path)

        return opener


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


class TestLedgerMetrics(MetricSinkContract):
    @pytest.fixture
    def sink(self, ledger: Ledger) -> MetricSink:
        return LedgerMetrics(ledger)

    @pytest.fixture
    def source(self, ledger: Ledger) -> MetricSource:
        return LedgerMetrics(ledger)


class TestLedgerAlerts(AlertSinkContract):
    @pytest.fixture
    def sink(self, ledger: Ledger) -> AlertSink:
        return LedgerAlerts(ledger, ReplayClock(5))

    @pytest.fixture
    def received(self, ledger: Ledger) -> Callable[[], list[str]]:
        def read() -> list[str]:
            with ledger.read() as db:
                return [str(row.subject) for row in db.execute(schema.event.select().order_by(schema.event.c.seq)) if row.kind == "alert"]

        return read

    @pytest.fixture
    def dead(self) -> AlertSink | None:
        return None


class _Hook(BaseHTTPRequestHandler):
    got: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/")
        else:
            self.got.append(body["subject"])
            self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    got: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Hook", (_Hook,), {"got": got}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()
    thread.join()


class TestWebhookAlerts(AlertSinkContract):
    timeout_s = 0.5

    @pytest.fixture
    def sink(self, hook: tuple[str, list[str]]) -> AlertSink:
        return WebhookAlerts(hook[0])

    @pytest.fixture
    def received(self, hook: tuple[str, list[str]]) -> Callable[[], list[str]]:
        return lambda: hook[1]

    @pytest.fixture
    def dead(self) -> Iterator[AlertSink]:
        with socket.create_server(("127.0.0.1", 0)) as listening:  # takes the connection and never answers
            yield WebhookAlerts(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_s=self.timeout_s)

    def test_redirects_and_other_schemes_are_not_followed(self, hook: tuple[str, list[str]]) -> None:
        with pytest.raises(UnavailableError, match="302"):
            WebhookAlerts(hook[0] + "moved").send("x", {})
        for url in ("file:///etc/passwd", "ftp://host/x"):
            with pytest.raises(RefusedError, match="http"):
                WebhookAlerts(url)
        assert hook[1] == []
