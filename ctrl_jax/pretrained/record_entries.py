"""Reading the entries of a JSON record one by one, so that none is overlooked."""

from collections.abc import Callable, Mapping
from typing import Any

from ctrl_jax._checks import refuse

REQUIRED = object()
LARGEST = 1e38  # of a float32
REPAIR = "give the folder of a model that has it as it must be"


class Entries:
    """The entries of a config.json; each that is asked for counts as understood.

    Args:
        record: the entries.
        name: of the file, for the words of an error.
        assumed: what stands for entries that are absent; null stays null.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        name: str = "config.json",
        assumed: Mapping[str, Any] | None = None,
    ):
        self.record, self.name, self.asked = {**(assumed or {}), **record}, name, set()
        self.over: list[str] = []  # inside an entry

    def get(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """Return one entry, or the default where it is absent or null."""
        self.asked.add(key)
        value = self.record.get(key)
        if value is None:
            if default is REQUIRED:
                raise self.refuse(key, value, f"it must be given, as {kind.__name__}")
            return default
        number = kind is float and isinstance(value, int)
        if not (isinstance(value, kind) or number) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise self.refuse(key, value, f"it must be {kind.__name__}")
        if kind is float and not abs(value) < LARGEST:
            raise self.refuse(key, value, "it must be a finite number")
        return kind(value) if kind is float else value

    def count(self, key: str, default: Any = REQUIRED, *, most: int = 2**31 - 1) -> Any:
        """Return an entry that is a whole number of at least 1, or the default."""
        value = self.get(key, int, default)
        if isinstance(value, int) and not 1 <= value <= most:
            raise self.refuse(key, value, f"it must lie between 1 and {most}")
        return value

    def positive(self, key: str, default: Any = REQUIRED) -> Any:
        """Return an entry that is a number above zero, or the default."""
        value = self.get(key, float, default)
        if isinstance(value, float) and value <= 0:
            raise self.refuse(key, value, "it must be above zero")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return an entry that lists numbers."""
        values = self.get(key, list)
        if not all(type(v) in (int, float) and 0 < v < LARGEST for v in values):
            raise self.refuse(key, values, "it must list numbers above zero")
        return tuple(map(float, values))

    def per_level(
        self, key: str, levels: int, default: Any = REQUIRED, *, most: int = 2**31 - 1
    ) -> tuple[int, ...]:
        """Return an entry that is one whole number for all levels, or lists one for each."""
        if not isinstance(self.record.get(key), list):
            return (self.count(key, default, most=most),) * levels
        values = self.get(key, list)
        if len(values) != levels or not all(type(v) is int and 1 <= v <= most for v in values):
            rule = f"it must be a whole number from 1 to {most}, or list {levels} of them"
            raise self.refuse(key, values, rule)
        return tuple(values)

    def expect(self, key: str, value: Any) -> None:
        """Refuse an entry that is neither absent nor this value."""
        found = self.get(key, type(value), value)
        if found != value:
            raise self.refuse(key, found, f"only {value!r} is implemented")

    def finish(
        self, usual: set[str], harmless: Callable[[str, Any], bool] = lambda key, value: False
    ) -> list[str]:
        """Return which entries were read over.

        Args:
            usual: entries that are read over without a word.
            harmless: ``harmless(key, value)``, whether an entry that nobody asked for can be.

        Raises:
            ValueError: an entry is neither understood, nor one of those, nor null.
        """
        rest = [
            key
            for key in sorted(self.record.keys() - self.asked - usual)
            if self.record[key] is not None
        ]
        for key in rest:
            if not harmless(key, self.record[key]):
                repair = "take it out if it says nothing of the network, or give another model"
                rule = "this entry is not understood here, and may change the result"
                raise self.refuse(key, self.record[key], rule, repair)
        return rest + self.over

    def refuse(self, key: str, value: Any, rule: str, repair: str = REPAIR) -> ValueError:
        """Return the error about one entry."""
        return refuse(f"{self.name}: {key}", value, rule, repair)
