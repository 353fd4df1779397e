"""A real Kafka broker (KRaft, one node) on free loopback ports, for tests that start, kill and start it again.

Its jars come from a Maven registry, once: `.ci/run` does it, or

    mvn -q -f tests/support/kafka.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$PWD/.kafka
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.serving_kit import free_port

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "tidemill", "secret"
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}{tls}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}{tls}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SASL_SSL
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location={folder}/server.pem
listener.name.tls.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
log.dirs={folder}/data
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=4194304
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=100
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class Broker:
    """One broker with its folder. `tls`: a listener with a certificate of its own beside those without."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.tls_port = free_port() if tls else 0
        self.folder, self.port, self.sasl_port, self._controller = folder, free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str = "", **options: object) -> str:
        """Patient, as the machine may be busy."""
        given = "&".join(f"{key}={value}" for key, value in ({"timeout": "30s"} | options).items())
        return f"kafka://{self.hosts}/{name}?{given}"

    def start(self) -> None:
        java, jars = shutil.which("java"), Path(os.environ.get("TIDEMILL_KAFKA", ROOT / ".kafka"))
        if java is None or not list(jars.glob("kafka_2*.jar")):
            text = "needs java, and the jars of a broker: see tests/support/kafka_server.py"
            if "kafka" in os.environ.get("TIDEMILL_LIVE", ""):
                pytest.fail(f"TIDEMILL_LIVE names kafka; {text}")
            pytest.skip(text)
        self.folder.mkdir(exist_ok=True, parents=True)
        settings = self.folder / "server.properties"
        small = [java, "-Xmx384m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*"]
        with (self.folder / "log").open("ab") as log:
            if not settings.exists():
                tls = f",TLS://127.0.0.1:{self.tls_port}" if self.tls_port else ""
                ports = {"port": self.port, "sasl": self.sasl_port, "controller": self._controller, "tls": tls}
                if self.tls_port:
                    self._certify()
                settings.write_text(_SETTINGS.format(folder=self.folder, user=USER, password=PASSWORD, **ports))
                cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
                made = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings)]
                subprocess.run([*small, *made], stdout=log, stderr=log, check=True)
            self._process = subprocess.Popen([*small, "kafka.Kafka", str(settings)], stdout=log, stderr=log, start_new_session=True)
        for _ in range(1200):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def _certify(self) -> None:
        """A certificate for the address, signed by itself: `ca.pem`, and with its key `server.pem`."""
        key, ca = self.folder / "key.pem", self.folder / "ca.pem"
        wanted = [
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]
        subprocess.run(["openssl", "req", *wanted, "-keyout", str(key), "-out", str(ca)], check=True, capture_output=True)
        (self.folder / "server.pem").write_text(key.read_text() + ca.read_text())

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def kafka_broker(folder: Path, *, tls: bool = False) -> Iterator[Broker]:
    """A running broker, killed at the end."""
    broker = Broker(folder, tls=tls)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
