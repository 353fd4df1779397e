"""The base of every contract suite."""

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])


class Contract:
    """A promise is kept or it is not: a subclass may add tests, never replace one."""

    def __init_subclass__(cls) -> None:
        promises = {name for base in cls.__mro__[1:] for name in vars(base) if name.startswith("test_")}
        if broken := sorted(promises & set(vars(cls))):
            raise TypeError(f"{cls.__name__} replaces contract tests: {', '.join(broken)}")


def keeps(*guarantees: str) -> Callable[[Test], Test]:
    """Say which guarantees of the port a test checks, where its name (`test_NAME…`) does not."""

    def mark(test: Test) -> Test:
        test.guarantees = guarantees  # type: ignore[attr-defined]
        return test

    return mark


def checked(suite: type[Contract], guarantee: str) -> list[str]:
    """Names of the tests of `suite` that check a guarantee: by `keeps`, or because they are named after it."""
    start = "test_" + guarantee.replace(" ", "_").replace("-", "_")
    tests = {name: getattr(suite, name) for name in dir(suite) if name.startswith("test_")}
    return [n for n, test in tests.items() if guarantee in getattr(test, "guarantees", ()) or f"{n}_".startswith(f"{start}_")]
