"""300 calls of public functions, each with one or two odd arguments: refused, or a right result.

A refusal is a ValueError in the one form, about an argument. A result is finite where what was
given is, and nothing comes of what is no number. Seeds are fixed; the draws found faults when they
were first made, in thousands with other seeds.
"""

import random
import re
import time
import warnings

import jax
import numpy as np
import pytest

from tests.fuzz.calls import calls
from tests.fuzz.odd_values import FORM, Choice, Count, Number, Values, drawable, leaves, odd, plain

DRAWS, PARTS = 300, 10
QUICK_AND_SLOW = [pytest.param(n, marks=pytest.mark.slow if n % 2 else ()) for n in range(PARTS)]
MOST_SECONDS = 20.0  # of one call, compilation on a shared machine included


@pytest.fixture(scope="module")
def known():
    return calls()


@pytest.fixture(autouse=True)
def as_users_run(unchecked):
    """No checks of types, and ranks that broadcast."""
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_no_number(kind, value) -> bool:
    """Whether nothing but an error can come of a value in the place of an argument."""
    if value is None:
        return not kind.optional
    if isinstance(value, str | dict | complex) or type(value) is object:
        return not isinstance(kind, Choice)
    if isinstance(value, np.ndarray) and value.dtype.kind in "cU":
        return True
    if isinstance(kind, Number | Count) and isinstance(value, float) and np.isnan(value):
        return True
    if isinstance(kind, Count) and not isinstance(value, np.ndarray | jax.Array | np.generic):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return not whole or not 0 <= value < 2**32
    return False


def fault(call, replaced, arguments) -> str | None:
    """What is wrong with the outcome of a call; None if nothing is."""
    kinds = {name: call.arguments[name] for name in replaced}
    began = time.monotonic()
    try:
        result = call.function(**arguments)
    except ValueError as error:
        return None if FORM.match(str(error)) else f"says {error}"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    if time.monotonic() - began > MOST_SECONDS:
        return "takes too long"
    if wrong := [n for n, kind in kinds.items() if is_no_number(kind, arguments[n])]:
        return f"takes {wrong}"
    arrays = any(isinstance(kind, Values) for kind in kinds.values())
    if any(np.isnan(np.asarray(x, float)).any() for x in leaves(result)) and not arrays:
        return "is not finite"  # what is in arrays is theirs
    return None


@pytest.mark.parametrize("part", QUICK_AND_SLOW)
def test_an_odd_argument_is_refused_or_right(part, known):
    draw, found = random.Random(part), []
    cheap = sorted(
        name for name, call in known.items() if not call.slow and drawable(call.arguments)
    )
    for _ in range(DRAWS // PARTS):
        call = known[draw.choice(cheap)]
        names = drawable(call.arguments)
        replaced = draw.sample(names, min(len(names), draw.choice((1, 1, 2))))
        arguments = {name: plain(kind) for name, kind in call.arguments.items()}
        arguments |= {name: draw.choice(odd(call.arguments[name]))() for name in replaced}
        if said := fault(call, replaced, arguments):
            shown = {name: re.sub(r"\s+", " ", f"{arguments[name]!r:.80}") for name in replaced}
            found.append(f"{call.name} of {shown} {said:.200}")
    assert not found, "\n" + "\n".join(found)


FOUND = [
    ("clipped_surrogate", "clip", 10**23),  # JAX counts in 32 bits
    ("flow", "horizon", 10**23),
    ("kto", "kl", 10**23),
    ("mallows_phi", "epsilon", 1e300),
    ("coefficients", "data_std", 10**23),  # whose square is infinite
    ("difference_quotient", "dt", 1e-300),  # which is 0 in float32
    ("simpo", "alpha", 1e-300),
    ("gaussian_rate", "rate", 0),
    ("q.martingale_residual", "dt", float("inf")),
    ("rate.generalized", "rates", np.zeros((0, 2), np.float32)),
    ("score_from_points", "points", np.zeros((0, 2), np.float32)),
    ("score_from_points", "t", []),  # neither one time nor one for each example
    ("kl_rate", "weight", []),
    ("classifier_free", "scale", []),
    ("projected", "direction", np.ones((2, 2), np.float16)),
    ("mmd", "bandwidths", {}),
    ("mmd", "bandwidths", np.float32(1.0)),
    ("feature_moments", "batches", None),
    ("TabulatedSchedule", "betas", ""),
    ("DataPoints", "points", np.ones((2, 2), np.complex64)),
    ("DataPoints", "points", np.full((2, 2), np.nan)),
    ("ConsistencyConfig", "teacher_order", True),
    ("DecoderConfig", "norm", None),
    ("read_metrics", "path", ""),
]


def test_odd_arguments_that_were_found_in_more_draws(known):
    found = []
    for name, argument, value in FOUND:
        arguments = {n: plain(kind) for n, kind in known[name].arguments.items()}
        if said := fault(known[name], [argument], arguments | {argument: value}):
            found.append(f"{name} of {argument} = {value!r} {said:.200}")
    assert not found, "\n".join(found)
