"""The benchmark page keeps what was not measured again."""

from tests.docs.test_reference import hook


def row(area: str, task: str, value: str) -> str:
    return f"| {area} | {task} | tidemill | {value} | s | 5 | 1 |  |  |"


def test_tasks_that_were_measured_again_are_replaced_in_their_place() -> None:
    page = hook("benchmarks")
    old = [row("features", "read_1", "1"), row("features", "read_1", "2"), row("features", "http_1", "3"), row("serving", "c1", "4")]
    new = [row("features", "read_1", "5"), row("features", "window", "6"), row("batch", "rows", "7")]
    assert page.merged(new, old) == [new[0], old[2], new[1], old[3], new[2]]
    assert page.merged(new, []) == new


def test_the_line_about_a_run_names_its_tasks_when_others_are_of_another() -> None:
    page = hook("benchmarks")
    figure = {"tool": "tidemill", "unit": "s", "n": 5, "value": 1.0}
    first = page.page([{"area": "a", "task": task, **figure} for task in ("x", "y")], ["a: one"])
    assert "- a: one" in first.splitlines()
    second = page.page([{"area": "a", "task": "x", **figure}], ["a: two"], first)
    assert [line for line in second.splitlines() if line.startswith("- ")] == ["- a (x): two", "- a (y): one"]
    third = page.page([{"area": "a", "task": "y", **figure}], ["a: three"], second)
    assert [line for line in third.splitlines() if line.startswith("- ")] == ["- a (x): two", "- a (y): three"]
    last = page.page([{"area": "a", "task": task, **figure} for task in ("x", "y")], ["a: four"], third)
    assert [line for line in last.splitlines() if line.startswith("- ")] == ["- a: four"]


def test_plots_are_drawn_from_all_rows_of_the_page_whichever_run_they_are_of() -> None:
    page = hook("benchmarks")
    figure = {"area": "features", "tool": "tidemill", "unit": "s", "n": 3}
    points = [{**figure, "task": "scaling_keys", "value": 0.5 * n, "cpu_s": 1.0, "x": 1_000 * n} for n in (1, 10)]
    first = page.page([*points, {**figure, "task": "scaling_keys_exponent", "value": 1.0}], ["features: one"])
    rows = [{**figure, "task": "scaling_rows", "value": 5.0 * n, "peak_mb": 7.0, "x": 10**6 * n} for n in (1, 10)]
    second = page.page(rows, ["features: two"], first)
    assert page.plotted(second) == [
        {"task": "scaling_keys", "value": 0.5, "x": 1_000},
        {"task": "scaling_keys", "value": 5.0, "x": 10_000},
        {"task": "scaling_keys_exponent", "value": 1.0, "x": None},
        {"task": "scaling_rows", "value": 5.0, "x": 10**6},
        {"task": "scaling_rows", "value": 50.0, "x": 10**7},
    ]
