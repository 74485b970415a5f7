"""Functions named on the command line as `module:function`."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from ctrl_jax._checks import refuse


def load_callable(spec: str) -> Callable[..., Any]:
    """Import a function by name; modules in the current folder are found.

    Args:
        spec: `module:function`, for example `my_rewards:brightness`; dots are allowed in both.

    Returns:
        The function.

    Raises:
        ValueError: the form is wrong, the module or function is not there, or importing the
            module fails.
    """
    module_name, colon, name = spec.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        repair = "give e.g. my_rewards:brightness"
        raise refuse("function", spec, "it must have the form module:function", repair)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            rule = f"there is no module {error.name!r} on the path or in {os.getcwd()}"
            if module_name.endswith(".py"):
                repair = f"leave .py out: {module_name.removesuffix('.py')}:{name}"
                raise refuse("function", spec, rule, repair) from error
            raise refuse("function", spec, rule, "check the name and the folder") from error
        raise refuse("function", spec, f"importing it fails ({error})", "install it") from error
    except Exception as error:
        rule = f"importing it fails ({type(error).__name__}: {error})"
        raise refuse("function", spec, rule, "repair the module") from error
    for part in name.split("."):
        if not hasattr(found, part):
            rule = f"{module_name} has no {name!r}"
            raise refuse("function", spec, rule, "check the function's name")
        found = getattr(found, part)
    if not callable(found):
        rule = f"{name!r} is a {type(found).__name__}, not a function"
        raise refuse("function", spec, rule, "name a function")
    return found
