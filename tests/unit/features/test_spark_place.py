"""What a `spark:` URL says, and what is said without Spark."""

import sys
from pathlib import Path

import pytest

from tidemill.adapters.spark.place import Place, java_version
from tidemill.core.errors import ConfigError
from tidemill.platform.root import Platform


def test_urls_name_a_master_and_settings() -> None:
    assert Place.parse("spark:local[2]") == Place("local[2]", {})
    assert Place.parse("spark://host:7077?spark.executor.memory=8g").master == "spark://host:7077"
    given = Place.parse("spark:k8s://https://h:443?spark.driver.extraJavaOptions=-XX:+UseZGC%20-Da=b&spark.ui.enabled=true")
    assert given == Place("k8s://https://h:443", {"spark.driver.extraJavaOptions": "-XX:+UseZGC -Da=b", "spark.ui.enabled": "true"})
    assert [Place.parse(u).local for u in ("spark:local", "spark:local[*]", "spark:yarn")] == [True, True, False]


@pytest.mark.parametrize(("url", "why"), [("spark:", "names no master"), ("spark:local?memory=1g", "memory is no setting of Spark")])
def test_urls_that_cannot_be_read(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"stack.offline: .*{why}"):
        Place.parse(url)


def test_the_java_is_the_one_of_java_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java_version() is None
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    assert java_version() == 8
    (tmp_path / "release").write_text('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\n')
    assert java_version() == 17


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "definitions.py").write_text("")
    monkeypatch.setitem(sys.modules, "pyspark", None)
    for name in [m for m in sys.modules if m.startswith("tidemill.adapters.spark.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"'spark' needs an extra: pip install 'tidemill\[spark\]'"):
        _ = Platform.open(tmp_path, ["stack.offline='spark:local[2]'"]).offline
