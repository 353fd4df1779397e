"""What can be configured, as values, and how Hydra's files become them.

A project's `conf/` is the primary configuration and the shipped `tidemill/platform/conf` stands behind it in Hydra's search path. Every
YAML file of the project is first compared with the dataclasses below, so that an error names the file and the key; then Hydra composes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tidemill.core.definitions import Trigger, every, on_drift, on_new_data, on_quality
from tidemill.core.errors import ConfigError
from tidemill.core.instants import parse_duration

_SHIPPED = "pkg://tidemill.platform.conf"


@dataclass(frozen=True, slots=True)
class StackConfig:
    """The systems behind the ports. Every value is a URL, `scheme:rest`; the scheme names the implementation."""

    name: str = "local"
    ledger: str = "sqlite:///.tidemill/ledger.db"
    tables: str = "iceberg:.tidemill/lake"
    blobs: str = "files:.tidemill/blobs"
    schemas: str = "files:schemas"
    catalog: str = "sqlite:.tidemill/catalog.db"
    builder: str = "git:.tidemill/code"
    offline: str = "duckdb:memory"
    online: str = "sqlite:.tidemill/online.db"
    predictions: str = "sqlite:.tidemill/predictions.db"
    labels: str = "sqlite:.tidemill/labels.db"
    studies: str = "sqlite:.tidemill/studies.db"
    stream: str = "files:.tidemill/stream"
    trainer: str = "processes:local"
    runtime: str = "onnx:local"
    alerts: str | None = None
    traces: str | None = None


@dataclass(frozen=True, slots=True)
class TriggerConfig:
    """One reason to retrain; what is not given keeps the default of `on_drift`, `on_quality`, `on_new_data` or `every`."""

    kind: Literal["drift", "quality", "new_data", "schedule"]
    every: str | None = None
    threshold: float | None = None
    window: str | None = None
    cooldown: str | None = None


@dataclass(frozen=True, slots=True)
class RetrainingConfig:
    """When services learn again. `triggers` null: each service's own; a list replaces them for all. `tick`: how often to look."""

    triggers: tuple[TriggerConfig, ...] | None = None
    tick: str = "30s"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How trainings share this machine with what serves on it: the trainer of `tidemill up`, and the processes of `stack.trainer`.

    `priority`: `idle`, run on what serving leaves (Linux; elsewhere as `low`); `low`, ten points nicer; `normal`, like everything else.
    """

    priority: Literal["idle", "low", "normal"] = "idle"


@dataclass(frozen=True, slots=True)
class ParityConfig:
    """How much of what is served is recomputed offline in the background. `share`: of the rows, 0 to 1, 0 for none; `every`: how often."""

    share: float = 0.01
    every: str = "15m"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How events are followed. `skew`: how far their times may lie ahead of their arrival before they are quarantined (a table's own `skew` counts more).

    `batch`: events of one commit, at most; `pause`: how long to wait when nothing has come; `feed`: how often published tables are looked at.
    """

    skew: str = "1h"
    batch: int = 50_000
    pause: str = "100ms"
    feed: str = "10s"


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Where console and HTTP API listen.

    `hosts`: names besides those of this machine and `tls.name` under which they may be asked (`*` for any); `origins`: other sites whose pages may
    ask the API from a browser, `https://app.example.com`, none by default.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """Where the model server listens, in how many processes, and what it accepts.

    `allow_at`: whether a request may say when it is answered (its parameter `at`), for demonstrations on past data. `grpc_port`: answer gRPC
    there too. `service`: serve this one alone, not all. `contract`: sagemaker, vertex or azureml: listen where, and answer as, that platform
    asks of a container. `log_share`: the share of predictions that is logged, 0 to 1, by their ids; `log_hot`: how long they stay in the fast
    log before they are archived in the table `predictions_SERVICE`; `log_keep`: how long they are kept at all, empty for ever; `log_sync`:
    whether an answer waits until its prediction would survive a power cut, or only the end of the server's process.
    `access_log`: whether each prediction's id, status and time is a line of the server's log. `trace_share`: the share of requests that are
    traced (`stack.traces`), where the caller does not decide. `max_in_flight`: requests that a process answers at once, further ones get 503;
    `rate`: predictions a second for each token and process, 0 for any number, further ones get 429; `timeout`: what takes longer gets 504,
    empty for never. `tokens_without_ledger`: how long tokens that were read before are accepted while the ledger does not answer, empty for
    as long as that lasts; then they get 503. `origins`: other sites whose pages may ask from a browser, `https://app.example.com`, none by default.
    """

    host: str = "127.0.0.1"
    port: int = 8401
    workers: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    allow_at: bool = False
    grpc_port: int | None = None
    service: str | None = None
    contract: Literal["sagemaker", "vertex", "azureml"] | None = None
    log_share: float = 1.0
    log_hot: str = "1d"
    log_keep: str = ""
    log_sync: bool = True
    access_log: bool = False
    trace_share: float = 1.0
    max_in_flight: int = 1_000
    rate: float = 0.0
    timeout: str = ""
    tokens_without_ledger: str = ""
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The certificate of console, API and model server (HTTP and gRPC); without one they speak without encryption. Paths are from the project's folder on.

    `cert`: PEM file with the certificate and those between it and its authority; `key`: PEM file with its private key (PKCS #8); `password`: of an
    encrypted key, as `env:NAME` or `file:PATH`; `name`: the host name that the certificate is for and that Tidemill's own commands ask, where they
    listen by default; `ca`: PEM file of the authorities that those commands trust, the system's by default.
    Files that are replaced while servers run are taken over within seconds.
    """

    cert: str = ""
    key: str = ""
    password: str = ""
    name: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """What the loader of models trusts. `trusted_types`: types that a scikit-learn model may hold beside the library's own, `package.module.Type`.

    `python`: the interpreter that runs models which are Python functions or PyTorch's, a path from the project's folder on; Tidemill's own by
    default. `processes`: how many for each such model; `timeout`: how long one may take for a call.
    """

    trusted_types: tuple[str, ...] = ()
    python: str = ""
    processes: int = 1
    timeout: str = "10s"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a project. `home` is absolute once loaded. `logs`: how the processes of `tidemill up` write their log, as text or JSON lines."""

    home: str = ".tidemill"
    logs: Literal["text", "json"] = "text"
    stack: StackConfig = field(default_factory=StackConfig)
    retraining: RetrainingConfig = field(default_factory=RetrainingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)


def load_config(project: Path, overrides: Sequence[str] = (), *, home: Path | None = None) -> Config:
    """Compose the configuration of `project`.

    Args:
        project: the folder with `definitions.py`; its `conf/config.yaml` is the primary file, the shipped one when there is none.
        overrides: Hydra overrides, `retraining=monthly` or `serving.port=9000`.
        home: where the local stack keeps its files, instead of the configured one.

    Raises:
        ConfigError: an unknown key, a wrong type or a file that is no YAML; names the file (or the override) and the key.
    """
    from tidemill.platform.configfiles import check_files, convert
    from tidemill.serving.cors import check_origins

    conf = project / "conf"
    check_files(conf, Config)
    raw = _compose(conf if (conf / "config.yaml").is_file() else None, overrides, project, home)
    config: Config = convert(raw, Config, where=", ".join(overrides) or "the composed configuration")
    parse_duration(config.retraining.tick)
    parse_duration(config.parity.every)
    if not 0 <= config.parity.share <= 1:
        raise ConfigError(f"parity.share is {config.parity.share}; it must be 0 to 1, for example 0.01 for one row of a hundred")
    _check_log(config.serving, config.stack.predictions)
    for setting, origins in (("api.origins", config.api.origins), ("serving.origins", config.serving.origins)):
        check_origins(origins, setting)
    if bool(config.tls.cert) != bool(config.tls.key):
        raise ConfigError("tls.cert and tls.key belong together: set both, or none for servers without encryption")
    for duration in (config.stream.skew, config.stream.pause, config.stream.feed, config.models.timeout):
        parse_duration(duration)
    if not 1 <= config.stream.batch <= 1_000_000:
        raise ConfigError(f"stream.batch is {config.stream.batch}; it must be 1 to 1,000,000 events")
    triggers_from(config)
    return config


def _check_log(given: ServingConfig, kept_in: str) -> None:
    if not given.log_sync and not kept_in.startswith("sqlite:"):
        raise ConfigError(f"serving.log_sync=false is for a prediction log in a file of this machine; stack.predictions is {kept_in}")
    if not 0 <= given.log_share <= 1:
        raise ConfigError(f"serving.log_share is {given.log_share}; it must be 0 to 1, for example 0.1 for one prediction of ten")
    if not 0 <= given.trace_share <= 1:
        raise ConfigError(f"serving.trace_share is {given.trace_share}; it must be 0 to 1, for example 0.01 for one request of a hundred")
    if given.tokens_without_ledger:
        parse_duration(given.tokens_without_ledger)
    hot = parse_duration(given.log_hot)
    if given.log_keep and parse_duration(given.log_keep) < hot:
        raise ConfigError(
            f"serving.log_keep={given.log_keep} is shorter than serving.log_hot={given.log_hot}; keep predictions at least until they are archived"
        )


def _compose(conf: Path | None, overrides: Sequence[str], project: Path, home: Path | None) -> Any:
    from hydra import compose, initialize_config_dir, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    start = (
        initialize_config_dir(str(conf.resolve()), version_base="1.3", job_name="tidemill")
        if conf
        else initialize_config_module("tidemill.platform.conf", version_base="1.3", job_name="tidemill")
    )
    try:
        with start:
            composed = compose("config", overrides=[f"hydra.searchpath=[{_SHIPPED}]", *overrides])
        OmegaConf.set_struct(composed, False)
        composed.home = str((home or project / str(composed.get("home", ".tidemill"))).expanduser().resolve())
        return OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
        given = f"override {' '.join(overrides)}" if overrides else str(conf or "conf")
        text = " ".join(lines).partition(" Config search path")[0].partition(" To append to your config")[0].replace("In 'config': ", "")
        raise ConfigError(f"{given}: {text}; docs/reference/config.md lists what can be set") from error
    finally:
        GlobalHydra.instance().clear()


def triggers_from(config: Config) -> list[Trigger] | None:
    """The configured triggers for all services; None when each service keeps its own. Raises `ConfigError`."""
    if config.retraining.triggers is None:
        return None
    return [_trigger(i, t) for i, t in enumerate(config.retraining.triggers)]


def _trigger(index: int, given: TriggerConfig) -> Trigger:
    def refuse(*keys: str) -> None:
        if wrong := [k for k in keys if getattr(given, k) is not None]:
            raise ConfigError(f"retraining.triggers[{index}]: a {given.kind} trigger has no {' or '.join(wrong)}")

    windows = {k: v for k in ("window", "cooldown") if (v := getattr(given, k)) is not None}
    if given.kind in ("drift", "quality"):
        refuse("every")
        make = on_drift if given.kind == "drift" else on_quality
        return make(given.threshold, **windows) if given.threshold is not None else make(**windows)
    refuse("threshold", "window", "cooldown")
    if given.kind == "new_data":
        return on_new_data(given.every) if given.every else on_new_data()
    if not given.every:
        raise ConfigError(f"retraining.triggers[{index}]: a schedule trigger needs every: 30d")
    return every(given.every)


def split_url(url: str, setting: str, known: Sequence[str]) -> tuple[str, str]:
    """Split `scheme:rest`, refusing schemes this port has no implementation for; `setting` is named in the error (`stack.tables`)."""
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in known:
        raise ConfigError(f"{setting}: {url!r} names no implementation there is; it must start with {' or '.join(k + ':' for k in known)}")
    return scheme, rest
