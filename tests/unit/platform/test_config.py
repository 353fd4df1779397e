"""Settings are composed by Hydra; what is wrong is named by file and key."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tidemill.core.errors import ConfigError
from tidemill.core.instants import DAY_US
from tidemill.platform.config import Config, load_config, split_url, triggers_from


def conf(project: Path, **files: str) -> Path:
    for name, text in files.items():
        path = project / "conf" / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return project


BASE = "defaults: [tidemill, {stack: local}, {retraining: default}, _self_]\n"


def test_a_project_without_conf_has_the_defaults_and_an_absolute_home(tmp_path: Path) -> None:
    config = load_config(tmp_path)
    assert config.home == str(tmp_path.resolve() / ".tidemill")
    assert config.stack.ledger == f"sqlite:///{config.home}/ledger.db"
    assert config.retraining.triggers is None
    assert triggers_from(config) is None


def test_another_home_moves_the_whole_stack(tmp_path: Path) -> None:
    config = load_config(tmp_path, home=tmp_path / "elsewhere")
    assert config.stack.tables == f"iceberg:{tmp_path.resolve()}/elsewhere/lake"


def test_home_can_be_overridden(tmp_path: Path) -> None:
    assert load_config(tmp_path, ["home=other"]).home == str(tmp_path.resolve() / "other")


def settings(kind: Any, prefix: str = "") -> Iterator[str]:
    """All settings, from the types that hold them."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_setting_can_be_overridden(tmp_path: Path) -> None:
    composed = load_config(tmp_path)
    names = list(settings(Config))
    assert "serving.rate" in names
    for name in names:
        value = attrgetter(name)(composed)
        if value is None or isinstance(value, bool | int | float) or value == "":
            text = {None: "null", "": "''"}.get(value, str(value).lower())
            assert attrgetter(name)(load_config(tmp_path, [f"{name}={text}"])) == value, name


def test_limits_of_the_model_server_are_overridden(tmp_path: Path) -> None:
    serving = load_config(tmp_path, ["serving.rate=5", "serving.timeout=2s", "serving.max_in_flight=3"]).serving
    assert (serving.rate, serving.timeout, serving.max_in_flight) == (5.0, "2s", 3)


def test_overrides_win_over_files(tmp_path: Path) -> None:
    conf(tmp_path, config=BASE + "serving: {port: 9000}\n")
    assert load_config(tmp_path).serving.port == 9000
    assert load_config(tmp_path, ["serving.port=9001"]).serving.port == 9001


@pytest.mark.parametrize(
    ("policy", "kinds"),
    [("never", []), ("monthly", ["schedule"]), ("on-drift", ["drift", "quality"])],
)
def test_shipped_policies(tmp_path: Path, policy: str, kinds: list[str]) -> None:
    triggers = triggers_from(load_config(tmp_path, [f"retraining={policy}"]))
    assert triggers is not None
    assert [t.kind for t in triggers] == kinds


def test_a_policy_of_the_project_is_found_beside_the_shipped_ones(tmp_path: Path) -> None:
    conf(tmp_path, config=BASE, retraining__weekly="triggers: [{kind: schedule, every: 7d}]\n")
    triggers = triggers_from(load_config(tmp_path, ["retraining=weekly"]))
    assert triggers is not None
    assert triggers[0].every_us == 7 * DAY_US


def test_a_single_trigger_can_be_changed_on_the_command_line(tmp_path: Path) -> None:
    triggers = triggers_from(
        load_config(tmp_path, ["retraining=monthly", "retraining.triggers=[{kind: drift, threshold: 0.5, window: 3d}]"])
    )
    assert triggers is not None
    assert (triggers[0].threshold, triggers[0].window_us) == (0.5, 3 * DAY_US)


@pytest.mark.parametrize(
    ("files", "overrides", "said"),
    [
        ({"config": BASE + "serving: {prt: 1}\n"}, [], ["conf/config.yaml", "'serving.prt'", "did you mean 'port'"]),
        ({"config": BASE + "srving: {port: 1}\n"}, [], ["conf/config.yaml", "'srving'"]),
        ({"config": BASE + "serving: {port: many}\n"}, [], ["conf/config.yaml", "serving.port", "whole number", "'many'"]),
        ({"config": BASE + "serving: {port: true}\n"}, [], ["conf/config.yaml", "serving.port", "whole number"]),
        ({"config": BASE + "stack: {ledger: 3}\n"}, [], ["conf/config.yaml", "stack.ledger", "a text"]),
        ({"config": BASE, "retraining__x": "triggers: 3\n"}, [], ["conf/retraining/x.yaml", "retraining.triggers", "a list"]),
        (
            {"config": BASE, "retraining__x": "trigers: []\n"},
            [],
            ["conf/retraining/x.yaml", "'retraining.trigers'", "did you mean 'triggers'"],
        ),
        (
            {"config": BASE, "retraining__x": "triggers: [{kind: mood}]\n"},
            [],
            ["conf/retraining/x.yaml", "retraining.triggers[0].kind", "one of"],
        ),
        ({"config": BASE, "weather__x": "a: 1\n"}, [], ["conf/weather/x.yaml", "no section 'weather'"]),
        ({"config": BASE + "a: [\n"}, [], ["conf/config.yaml is not YAML"]),
        ({"config": "- a\n"}, [], ["conf/config.yaml must hold keys and values"]),
        ({}, ["retraining=nope"], ["override retraining=nope", "nope", "monthly"]),
        ({}, ["serving.prt=1"], ["override serving.prt=1", "serving.prt"]),
        ({}, ["serving.log_share=1.5"], ["serving.log_share", "0 to 1"]),
        ({}, ["serving.log_keep=1h"], ["serving.log_keep=1h", "shorter"]),
        ({}, ["serving.port=many"], ["serving.port", "whole number"]),
        ({}, ["retraining.triggers=[{kind: schedule}]"], ["retraining.triggers[0]", "every"]),
        ({}, ["retraining.triggers=[{kind: schedule, every: 3d, threshold: 1}]"], ["retraining.triggers[0]", "no threshold"]),
        ({}, ["retraining.triggers=[{kind: drift, every: 3d}]"], ["retraining.triggers[0]", "no every"]),
        ({}, ["retraining.triggers=[{every: 3d}]"], ["retraining.triggers[0]", "lacks kind"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], overrides: list[str], said: list[str]) -> None:
    conf(tmp_path, **files)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, overrides)
    assert all(text in str(caught.value) for text in said), str(caught.value)


def test_two_projects_in_one_process_do_not_mix(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    conf(one, config=BASE + "serving: {port: 9001}\n")
    conf(two, config=BASE + "serving: {port: 9002}\n")
    assert [load_config(p).serving.port for p in (one, two, one)] == [9001, 9002, 9001]


def test_urls_name_their_setting_when_nothing_stands_behind_them() -> None:
    assert split_url("iceberg:/lake", "stack.tables", ["iceberg"]) == ("iceberg", "/lake")
    with pytest.raises(ConfigError, match=r"stack\.tables.*'delta:/lake'.*iceberg:"):
        split_url("delta:/lake", "stack.tables", ["iceberg"])
