"""A whole number beyond what devices count in, in any option, is refused before anything begins."""

import dataclasses
import importlib
import typing

import pytest

from ctrl_jax.commands import prefer, sample
from ctrl_jax.runtime import validate
from experiments.study import studies

HUGE = 10**23
CONFIGS = {"prefer": prefer.Config("model", "data"), "sample": sample.Config("run")}
LATER = {"run.processes", "run.process_id", "network.attention", "target_class"}
LATER |= {"processes", "process_id"}
"""Looked at beside what they belong to: a coordinator, the heights of a network, the classes."""


def config_of(name):
    if name in CONFIGS:
        return CONFIGS[name]
    config = importlib.import_module(f"experiments.{name}.__main__").Config()
    return dataclasses.replace(config, tiny=True) if hasattr(config, "tiny") else config


def changed(config, prefix=""):
    """Every config in which one whole number is a huge one, by its name."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        kinds = {hint, *typing.get_args(hint)}
        if dataclasses.is_dataclass(value):
            for name, make in changed(value, f"{prefix}{field.name}."):
                yield name, lambda f=field.name, m=make: dataclasses.replace(config, **{f: m()})
        elif int in kinds:
            several = typing.get_origin(hint) is tuple
            huge = (HUGE,) if several else HUGE
            put = {field.name: huge}
            yield prefix + field.name, lambda p=put: dataclasses.replace(config, **p)


@pytest.mark.parametrize("name", [*CONFIGS, *studies()])
def test_a_huge_number_is_refused_at_the_door(name):
    passed = []
    for option, make in changed(config_of(name)):
        try:
            validate(make())
        except ValueError as error:
            assert str(HUGE) in str(error) or "received" in str(error)
        else:
            passed.append(option)
    assert {*passed} <= LATER
