"""One Spark on this machine for all tests of a process, set for little data: nothing is compiled, one part."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tidemill.adapters.spark.features import SparkOfflineStore

URL = "spark:local[2]?" + "&".join(
    [
        "spark.sql.codegen.wholeStage=false",
        "spark.sql.codegen.factoryMode=NO_CODEGEN",
        "spark.sql.adaptive.enabled=false",
        "spark.sql.shuffle.partitions=1",
        "spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1",
    ]
)


def spark_url() -> str:
    """Where Spark is; skips without it, and fails when TIDEMILL_LIVE names it."""
    lacking = [] if importlib.util.find_spec("pyspark") else ["pip install 'tidemill[spark]'"]
    if "JAVA_HOME" not in os.environ and not shutil.which("java"):
        lacking.append("apt-get install openjdk-17-jre-headless")
    if lacking and "spark" in os.environ.get("TIDEMILL_LIVE", "").split():
        pytest.fail(f"TIDEMILL_LIVE names spark, which needs {' and '.join(lacking)}")
    if lacking:
        pytest.skip(f"needs {' and '.join(lacking)}")
    return URL


def spark_store() -> SparkOfflineStore:
    """The store that all tests share; Spark ends with the process."""
    spark_url()
    return _opened()


@cache
def _opened() -> SparkOfflineStore:
    from tidemill.adapters.spark.features import open_offline

    store = open_offline(URL)
    store.describe()
    return store
