"""Preference losses against NumPy, and both against the values of TRL."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import preference
from ctrl_jax.losses.preference.named import OF_TRL
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
    if inputs == "mean_ratio":
        sums = arguments("ratio")
        return tuple(
            v / x[f"tokens_{a}"] for v, a in zip(sums, ("chosen", "rejected"), strict=True)
        )
    if inputs == "token_mean":
        return tuple(x[f"policy_{a}"] / x[f"tokens_{a}"] for a in ("chosen", "rejected"))
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


BY_NAME = {
    "bco_unshifted": ("bco", "ratio"),
    "ipo_per_token": ("ipo", "mean_ratio"),
    "sigmoid_norm": ("sigmoid_norm", "mean_ratio"),
    "sft": ("sft", "token_mean"),
    "exo": ("exo", "ratio"),
    "alphapo": ("alphapo", "mean"),
    "alpha": ("f_dpo_alpha", "ratio"),
}
"""Stored values by the losses of the table and what these take."""


def test_named_losses_are_those_of_trl():
    for stored, (name, inputs) in BY_NAME.items():
        row = preference.NAMED[name]
        options = row.defaults | ({"alpha": 0.3} if stored == "alpha" else {})
        pair = (jnp.asarray(value, jnp.float32) for value in arguments(inputs))
        beta = 2.0 if stored == "alphapo" else BETA
        found = row.loss(*pair, beta=beta, **options)
        expected = STORED["values"][stored]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=stored)


def test_every_stored_value_is_compared():
    elsewhere = {"aot", "aot_unpaired", "two_losses", "kto", "kto_weighted"}
    assert {*ONE_LOSS, *BY_NAME, *elsewhere} == set(STORED["values"])


def test_every_loss_of_trl_has_a_name_here():
    """DPO's trainer in 1.16.0, the variants of KTO's and CPO's, and names of former releases."""
    of_dpo = (
        "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero "
        "apo_down discopop sft sigmoid_norm aot_pair kto_pair"
    )
    for name in (*of_dpo.split(), "kto", "apo_zero_unpaired", "cpo", "simpo", "alphapo", "orpo"):
        assert OF_TRL.get(name, name) in preference.NAMED, name
        assert not (name in OF_TRL and name in preference.NAMED), name


def test_aot_is_a_loss_of_ranks():
    chosen, rejected = arguments("ratio")
    found = preference.aot(
        jnp.asarray(chosen, jnp.float32),
        jnp.asarray(rejected, jnp.float32),
        beta=BETA,
        label_smoothing=0.1,
    )
    by_rank = oracle.aot(chosen, rejected, BETA, 0.1)
    np.testing.assert_allclose(by_rank.mean(), STORED["values"]["aot_unpaired"], rtol=1e-5)
    # Ours stands at the chosen example.
    np.testing.assert_allclose(np.asarray(found)[np.argsort(chosen)], by_rank, rtol=1e-5)
    # Whether data are paired or not is a matter of the arguments.
    margins = [
        (X[f"{m}_chosen"] - X[f"{m}_rejected"]).astype(np.float32) for m in ("policy", "ref")
    ]
    paired = preference.aot(*map(jnp.asarray, margins), beta=BETA, label_smoothing=0.1)
    np.testing.assert_allclose(np.mean(paired), STORED["values"]["aot"], rtol=1e-5)


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
    if trl.__version__ != STORED["trl"]:
        pytest.skip(f"the values are those of TRL {STORED['trl']}")
    for name, values in trl_losses.values().items():
        np.testing.assert_allclose(values, STORED["values"][name], rtol=1e-4, atol=1e-5)
