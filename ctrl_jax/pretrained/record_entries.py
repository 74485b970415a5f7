"""Reading the entries of a JSON record one by one, so that none is overlooked."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax._checks import refuse

REQUIRED = object()


class Entries:
    """The entries of a config.json; each that is asked for counts as understood."""

    def __init__(self, record: Mapping[str, Any], name: str = "config.json"):
        self.record, self.name, self.asked = record, name, set()

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
        return kind(value) if kind is float else value

    def expect(self, key: str, value: Any) -> None:
        """Refuse an entry that is neither absent nor this value."""
        found = self.get(key, type(value), value)
        if found != value:
            raise self.refuse(key, found, f"only {value!r} is implemented")

    def finish(self, irrelevant: set[str]) -> None:
        """Refuse the record if an entry is neither understood, nor irrelevant, nor null."""
        for key in sorted(self.record.keys() - self.asked - irrelevant):
            if self.record[key] is not None:
                raise self.refuse(key, self.record[key], "this entry is not understood here")

    def refuse(self, key: str, value: Any, rule: str) -> ValueError:
        """Return the error about one entry."""
        repair = "give the folder of a model of a known kind"
        return refuse(f"{self.name}: {key}", value, rule, repair)
