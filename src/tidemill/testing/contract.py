"""The base of every contract suite."""


class Contract:
    """A promise is kept or it is not: a subclass may add tests, never replace one."""

    def __init_subclass__(cls) -> None:
        promises = {name for base in cls.__mro__[1:] for name in vars(base) if name.startswith("test_")}
        if broken := sorted(promises & set(vars(cls))):
            raise TypeError(f"{cls.__name__} replaces contract tests: {', '.join(broken)}")
