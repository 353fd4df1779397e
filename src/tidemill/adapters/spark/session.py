"""Spark sessions: how they are set, and their errors in our words."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyspark
from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import (
    AnalysisException,
    ArithmeticException,
    DateTimeException,
    IllegalArgumentException,
    NumberFormatException,
    ParseException,
    PySparkException,
)
from pyspark.sql import SparkSession

from tidemill.adapters.spark.place import Place, java_version
from tidemill.core.errors import InvalidError, UnavailableError

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
}
"""What the compiled queries rely on (the first three), and that rows which are together by entity may stay so."""
_WRONG = (AnalysisException, ArithmeticException, DateTimeException, IllegalArgumentException, NumberFormatException, ParseException)
"""What Spark raises for a query or a value that will fail again."""
_LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}


class Sessions:
    """Sessions of one Spark application, which starts with the first that is asked for and stops with `close` if it was started here.

    An application that this process has already is used as it is, and left so; the URL's master is then not asked for.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._root: SparkSession | None = None
        self._own = False

    def new(self) -> SparkSession:
        """A session with temporary views and settings of its own. Raises `UnavailableError` when Spark cannot be started."""
        with self._lock:
            if self._root is None:
                self._own = SparkContext._active_spark_context is None
                self._root = self._start() if self._own else SparkSession.builder.getOrCreate()
            session = self._root.newSession()
        for name, value in {**self._sizes(), **self.place.settings, **_SETTINGS}.items():
            if name.startswith("spark.sql.") and session.conf.isModifiable(name):
                session.conf.set(name, value)
        return session

    def _start(self) -> SparkSession:
        if not (java := java_version()):
            raise UnavailableError(
                "Spark needs Java 17 or newer, and there is none; install one (Debian: openjdk-17-jre-headless) or set JAVA_HOME"
            )
        if java < 17:
            raise UnavailableError(f"Spark needs Java 17 or newer, and this is Java {java}; install one or set JAVA_HOME")
        builder = SparkSession.builder.master(self.place.master).appName("tidemill")
        for name, value in {**(_LOCAL if self.place.local else {}), **_SETTINGS, **self.place.settings}.items():
            builder = builder.config(name, value)
        if self.place.local:
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        try:
            return builder.getOrCreate()
        except (PySparkException, Py4JError, OSError, RuntimeError) as error:
            raise UnavailableError(f"Spark at {self.place.master} does not start: {first_line(error)}") from error

    def _sizes(self) -> dict[str, str]:
        """On this machine one part of the data per core; a cluster keeps its own number."""
        if not self.place.local:
            return {}
        cores = re.search(r"\[(\d+)", self.place.master)
        return {"spark.sql.shuffle.partitions": cores[1] if cores else str(os.cpu_count() or 1)}

    def describe(self) -> str:
        """Start it and say what runs where."""
        session = self.new()
        with translated("a test query"):
            session.sql("SELECT 1").collect()
        return f"Spark {session.version}, Java {java_version()}, {session.conf.get('spark.master')}"

    def close(self) -> None:
        """Stop the application, unless somebody else had started it."""
        with self._lock:
            if self._root is not None and self._own:
                self._root.stop()
            self._root = None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Spark's errors in our words; `what` was being computed."""
    try:
        yield
    except _WRONG as error:
        if "PATH_NOT_FOUND" in str(error):
            raise _unseen(what, error) from error
        raise InvalidError(f"Spark {pyspark.__version__} cannot compute {what}: {first_line(error)}") from error
    except (PySparkException, Py4JError, ConnectionError) as error:
        if "FAILED_READ_FILE" in str(error):
            raise _unseen(what, error) from error
        raise UnavailableError(f"Spark did not finish {what}: {first_line(error)}") from error


def _unseen(what: str, error: Exception) -> UnavailableError:
    hint = "all of its machines have to see a table's files under one path"
    return UnavailableError(f"Spark does not find the rows that {what} is computed from: {first_line(error)}; {hint}")


def first_line(error: Any) -> str:
    """The line that says what is wrong, without the traces of the JVM around it: the one with Spark's name for the error, or the first."""
    java = getattr(error, "java_exception", None)
    text = str(error) if java is None else f"{java.toString()}\n{error}"
    named = re.search(r"\[[A-Z_]+(?:\.[A-Z_]+)*\][^\n]*", text)
    return (named[0] if named else text.strip().split("\n", 1)[0]).strip()
