"""Preference losses against NumPy, and both against the values of TRL."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import preference
from tests.losses.preference.family import BETA, FAMILY
from tests.oracles import preference as oracle
from tests.oracles import trl_losses
from tests.test_floors import ROOT

X = trl_losses.inputs()
STORED = json.loads((ROOT / "tests" / "oracles" / "trl_losses.json").read_text())
ONE_LOSS = sorted(set(STORED["values"]) & set(FAMILY))


def arguments(inputs):
    """The chosen and the rejected value, in float64."""
    x = {name: array.astype(np.float64) for name, array in X.items()}
    if inputs == "ratio":
        return tuple(x[f"policy_{a}"] - x[f"ref_{a}"] for a in ("chosen", "rejected"))
    prefix = {"sum": "policy", "mean": "mean"}[inputs]
    return x[f"{prefix}_chosen"], x[f"{prefix}_rejected"]


def kto_arguments():
    chosen, rejected = arguments("ratio")
    unrelated = X["unrelated_policy_chosen"].astype(np.float64) - X["ref_chosen"]
    good = np.repeat([True, False], trl_losses.PAIRS)
    return np.concatenate([chosen, rejected]), good, max(unrelated.mean(), 0)


@pytest.mark.parametrize("name", FAMILY)
def test_every_loss_is_its_formula(name):
    member = FAMILY[name]
    chosen, rejected = arguments(member.inputs)
    found = member.loss(jnp.asarray(chosen, jnp.float32), jnp.asarray(rejected, jnp.float32))
    expected = member.expected(
        chosen.astype(np.float32).astype(float), rejected.astype(np.float32).astype(float)
    )
    # Terms of size 100 that cancel (ipo, sppo) leave 1e-7 of 100; the rest is relative.
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", ONE_LOSS)
def test_every_formula_is_that_of_trl(name):
    member = FAMILY[name]
    chosen, rejected = arguments(member.inputs)
    stored = np.array(STORED["values"][name])
    # TRL subtracts log-probabilities near 100 in float32: 1e-5 of the log-ratios.
    np.testing.assert_allclose(member.expected(chosen, rejected), stored, rtol=1e-4, atol=1e-5)
    found = member.loss(jnp.asarray(chosen, jnp.float32), jnp.asarray(rejected, jnp.float32))
    np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-5)


def test_every_stored_value_is_compared():
    elsewhere = {"aot", "aot_paired_data", "kto", "kto_weighted"}
    assert set(ONE_LOSS) | elsewhere == set(STORED["values"])


def test_aot_is_a_loss_of_ranks():
    chosen, rejected = arguments("ratio")
    found = preference.aot(
        jnp.asarray(chosen, jnp.float32),
        jnp.asarray(rejected, jnp.float32),
        beta=BETA,
        label_smoothing=0.1,
    )
    by_rank = oracle.aot(chosen, rejected, BETA, 0.1)
    np.testing.assert_allclose(by_rank, STORED["values"]["aot"], rtol=1e-4)
    # Ours stands at the chosen example.
    np.testing.assert_allclose(np.asarray(found)[np.argsort(chosen)], by_rank, rtol=1e-5)
    weights = jnp.arange(chosen.size, dtype=jnp.float32)
    weighted = jax.jit(partial(preference.aot, beta=BETA, label_smoothing=0.1))(
        jnp.asarray(chosen, jnp.float32), jnp.asarray(rejected, jnp.float32), weights=weights
    )
    np.testing.assert_allclose(weighted, weights * found, rtol=1e-6)
    # Whether data are paired or not is a matter of the arguments.
    margins = [
        (X[f"{m}_chosen"] - X[f"{m}_rejected"]).astype(np.float32) for m in ("policy", "ref")
    ]
    paired = preference.aot(*map(jnp.asarray, margins), beta=BETA)
    np.testing.assert_allclose(
        np.asarray(paired)[np.argsort(margins[0])],
        STORED["values"]["aot_paired_data"],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(("name", "scales"), [("kto", (1.0, 1.0)), ("kto_weighted", (1.5, 0.5))])
def test_kto(name, scales):
    ratio, good, kl = kto_arguments()
    found = jax.jit(preference.kto, static_argnames=("beta",))(
        jnp.asarray(ratio, jnp.float32),
        jnp.asarray(good),
        jnp.float32(kl),
        beta=BETA,
        desirable_weight=scales[0],
        undesirable_weight=scales[1],
    )
    np.testing.assert_allclose(found, oracle.kto(ratio, good, kl, BETA, *scales), rtol=1e-5)
    np.testing.assert_allclose(found, STORED["values"][name], rtol=1e-4)


def test_trl_where_it_is_installed():
    trl = pytest.importorskip("trl")
    if not hasattr(trl, "CPOTrainer"):
        pytest.skip("TRL 0.23.1 has these losses; later ones dropped some")
    for name, values in trl_losses.values().items():
        np.testing.assert_allclose(values, STORED["values"][name], rtol=1e-4, atol=1e-5)
