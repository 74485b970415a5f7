"""Laws that every preference loss keeps, and what each refuses."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax import losses
from tests.losses.preference.family import BETA, FAMILY, Member

preference: Any = losses.preference  # what is refused below has the wrong type as well
KEY = jax.random.key(0)
GOOD = jnp.asarray([True, False, True, True, False])
KTO = Member(lambda x, y, **more: preference.kto(x, GOOD, y, beta=BETA, **more), lambda x, y: None)
EVERY = FAMILY | {"kto": KTO}
# Another option of a loss that is there: its values are tested, its laws in the slow tests.
OPTIONS = (
    *("dpo_smoothed", "exo_smoothed", "reverse_kl", "reverse_kl_smoothed", "cpo_smoothed"),
    *("cpo_per_token", "sppo_soft", "simpo_smoothed", "odds_ratio"),
)
every_member = pytest.mark.parametrize(
    "member",
    [
        pytest.param(member, id=name, marks=pytest.mark.slow if name in OPTIONS else ())
        for name, member in EVERY.items()
    ],
)
BY_MARGIN = [
    *("dpo", "dpo_smoothed", "robust", "hinge", "ipo", "exo", "exo_smoothed", "reverse_kl"),
    *("mallows_theta", "mallows_phi", "mallows_sigmoid", "mallows_ipo"),
]


def values(member: Member):
    x, y = jax.random.normal(KEY, (2, 5))
    return (-jnp.exp(x) - 0.05, -jnp.exp(y) - 0.05) if member.inputs == "mean" else (3 * x, 3 * y)


@every_member
def test_laws(member):
    x, y = values(member)
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0])

    @jax.jit
    def compute(x, y):
        swapped = jax.vmap(member.loss)(jnp.stack([x, y]), jnp.stack([y, x]))
        weighted = member.loss(x, y, weights=weights)
        return member.loss(x, y), weighted, swapped, jax.jacobian(member.loss)(x, y)

    plain, weighted, swapped, jacobian = compute(x, y)
    assert plain.shape == (5,) and plain.dtype == x.dtype
    np.testing.assert_allclose(member.loss(x, y), plain, rtol=2e-6)
    np.testing.assert_allclose(weighted, weights * plain, rtol=2e-6)
    np.testing.assert_allclose(swapped[0], plain, rtol=2e-6)
    np.testing.assert_allclose(swapped[1], member.loss(y, x), rtol=2e-6)
    # One value per example: none depends on another.
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))
    assert np.diag(jacobian).all()


@every_member
def test_the_gradient_is_that_of_the_value(member, float64):
    x, y = (v.astype(jnp.float64) for v in values(member))
    loss = jax.jit(member.loss)
    # No example depends on another, so that all of them move at once.
    slopes = jax.jit(jax.grad(lambda a, b: jnp.sum(member.loss(a, b)), argnums=(0, 1)))(x, y)
    h = 1e-6
    moved = [(x + h, y), (x - h, y), (x, y + h), (x, y - h)]
    numerical = [(loss(*moved[i]) - loss(*moved[i + 1])) / (2 * h) for i in (0, 2)]
    np.testing.assert_allclose(slopes, numerical, rtol=1e-6, atol=1e-8)


@every_member
def test_bfloat16_is_rounded_once(member):
    x, y = (v.astype(jnp.bfloat16) for v in values(member))
    loss = jax.jit(lambda a, b: member.loss(a, b, weights=jnp.full(5, 0.7)))
    found, wide = loss(x, y), loss(x.astype(jnp.float32), y.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("name", BY_MARGIN)
def test_only_the_difference_counts(name):
    x, y = values(FAMILY[name])
    moved = FAMILY[name].loss(x + 4, y + 4)
    np.testing.assert_allclose(moved, FAMILY[name].loss(x, y), rtol=2e-5)


def test_training_starts_at_log_two():
    names = ("dpo", "dpo_smoothed", "reverse_kl", "mallows_theta", "mallows_sigmoid")
    found = jax.jit(lambda zero: [FAMILY[name].loss(zero, zero) for name in names])(jnp.zeros(12))
    np.testing.assert_allclose(found, np.log(2), rtol=1e-7)


def test_robust_is_dpo_in_the_mean_over_flips():
    x, y = values(FAMILY["dpo"])
    flip = 0.2
    kept = preference.robust(x, y, beta=BETA, label_smoothing=flip)
    flipped = preference.robust(y, x, beta=BETA, label_smoothing=flip)
    clean = preference.dpo(x, y, beta=BETA)
    np.testing.assert_allclose((1 - flip) * kept + flip * flipped, clean, rtol=1e-5)


@every_member
def test_extreme_log_ratios_stay_finite(member):
    if member.inputs == "mean":
        x, y = jnp.asarray([0.0, -500.0, -1e-3]), jnp.asarray([-500.0, 0.0, -1e-3])
    else:
        x, y = jnp.asarray([500.0, -500.0, 0.0]), jnp.asarray([-500.0, 500.0, 0.0])
    if member is KTO:
        x, y = jnp.tile(x, 2)[:5], jnp.tile(y, 2)[:5]
    of_sum = jax.value_and_grad(lambda a, b: jnp.sum(member.loss(a, b)), argnums=(0, 1))
    total, slopes = jax.jit(of_sum)(x, y)
    assert np.isfinite(total) and np.isfinite(slopes).all()


@every_member
def test_numpy_arrays_are_taken(member, unchecked):
    """Of float64 too, without a warning of a type that JAX has not."""
    x, y = (np.asarray(v, np.float64) for v in values(member))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = member.loss(x, y, weights=np.ones(5))
    np.testing.assert_array_equal(found, member.loss(*map(jnp.asarray, (x, y))))


def test_an_infinite_margin():
    """An answer that cannot occur costs nothing where it is the rejected one."""
    x, y = jnp.asarray([0.0, -jnp.inf]), jnp.asarray([-jnp.inf, 0.0])
    names = ("dpo", "mallows_theta", "mallows_phi", "mallows_sigmoid")

    @jax.jit
    def found(x, y):
        def one(name):
            loss, back = jax.vjp(FAMILY[name].loss, x, y)
            return loss, back(jnp.ones(2))[0]

        return {name: one(name) for name in names}

    for name, (loss, slope) in found(x, y).items():
        np.testing.assert_array_equal(loss, [0.0, np.inf])
        assert slope[0] == 0 and slope[1] < 0, name


X = jnp.linspace(-1.0, 1.0, 4)
PHI = jnp.full(4, 0.5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: preference.dpo(X, X, beta=0.0), "beta: received 0.0; it must be above zero"),
        (lambda: preference.dpo(X, X, beta=float("nan")), "beta: received nan; it must be a fin"),
        (
            lambda: preference.dpo(X, X, beta=jnp.ones(4)),
            r"beta: .* float32\[4\]; it must be one n",
        ),
        (lambda: preference.dpo(X, X, beta=None), "beta: received None; it must be a finite numb"),
        (lambda: preference.simpo(X, X, beta=2.0, gamma="big"), "gamma: received 'big'; it must"),
        (lambda: preference.aot(X[None], X[None], beta=0.1), r"\[1, 4\]; log-ratios .* one axis"),
        (lambda: preference.aot(X[0], X[0], beta=0.1), "chosen: .*; log-ratios must have one ax"),
        (
            lambda: preference.dpo(X, X[:3], beta=0.1),
            r"log_ratio_rejected: .* float32\[3\]; .* the",
        ),
        (lambda: preference.dpo(X, X.astype(jnp.float16), beta=0.1), r"float16\[4\]; .* the shape"),
        (lambda: preference.dpo(X, jnp.arange(4), beta=0.1), r"rejected: .* int32\[4\]; .* floati"),
        (
            lambda: preference.dpo(1.0, X, beta=0.1),
            "log_ratio_chosen: received 1.0; .* of floating",
        ),
        (lambda: preference.cpo(1.0, X, beta=0.1), "log_prob_chosen: received 1.0; .* of floating"),
        (
            lambda: preference.dpo(X, X, beta=0.1, label_smoothing=0.5),
            r"smoothing: .* in \[0, 0.5\)",
        ),
        (lambda: preference.robust(X, X, beta=0.1, label_smoothing=-0.1), "smoothing: .* -0.1; it"),
        (lambda: preference.exo(X, X, beta=0.1, label_smoothing=0.0), "it must be above zero"),
        (
            lambda: preference.dpo(X, X, beta=0.1, weights=jnp.ones(3)),
            "weights: .* one per example",
        ),
        (
            lambda: preference.dpo(X, X, beta=0.1, weights=X > 0),
            "weights: .* bool.* of floating ty",
        ),
        (
            lambda: preference.sppo(X, X, beta=0.1, win_probability=1.5),
            "probability: received 1.5; ",
        ),
        (lambda: preference.apo(X, X, beta=0.1, variant="up"), r"'up'; .* give zero\|down"),
        (lambda: preference.simpo(X, X, beta=2.0, gamma=-1.0), "gamma: received -1.0; .* or above"),
        (
            lambda: preference.cpo(X, X, beta=0.1, nll_weight=-1.0),
            "nll_weight: received -1.0; it m",
        ),
        (
            lambda: preference.cpo(X, X, beta=0.1, nll_weight=X),
            "nll_weight: received -1.0; it must",
        ),
        (
            lambda: preference.cpo(X, X, beta=0.1, nll_weight=X[:2]),
            "nll_weight: .* must be one numb",
        ),
        (
            lambda: preference.orpo(X, X, beta=0.1, nll_weight=-1.0),
            "nll_weight: received -1.0; it ",
        ),
        (
            lambda: preference.f_dpo(X, X, beta=0.1, divergence="kl"),
            "divergence: received 'kl'; it",
        ),
        (
            lambda: preference.f_dpo(X, X, beta=0.1, divergence="alpha"),
            "alpha: received None; it b",
        ),
        (
            lambda: preference.f_dpo(X, X, beta=0.1, divergence="forward_kl", alpha=0.5),
            'alpha: received 0.5; it belongs to divergence="alpha"',
        ),
        (lambda: preference.kto(X, X, 0.0, beta=0.1), "desirable: .* it must hold booleans of"),
        (
            lambda: preference.kto(X, X > 0, jnp.ones(3), beta=0.1),
            "kl: .* it must be one number or",
        ),
        (
            lambda: preference.kto(X, X > 0, 0.0, beta=0.1, desirable_weight=-1.0),
            "desirable_weight: received -1.0",
        ),
        (lambda: preference.mallows_theta(X, X, beta=-1.0, dispersion=PHI), "beta: received -1.0"),
        (lambda: preference.mallows_theta(X, X, beta=0.1, dispersion=0.0), r"must lie in \(0, 1\]"),
        (lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=1e-39), "from 1.2e-38 on"),
        (lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=1.5 * X), r"lie in \(0, 1\]"),
        (
            lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=X * jnp.nan),
            "received nan; it",
        ),
        (lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=PHI[:3]), r"have shape \[4\]"),
        (
            lambda: preference.mallows_ipo(X, X, beta=0.1, dispersion=jnp.ones(4, int)),
            "dispersion: .* it must be an array of floating type",
        ),
        (
            lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=PHI, link="probit"),
            r"link: received 'probit'; .* give exact\|sigmoid\|cubic",
        ),
        (
            lambda: preference.mallows_phi(X, X, beta=0.1, dispersion=PHI, epsilon=0.1),
            'epsilon: received 0.1; it is the width of link="cubic"',
        ),
        (
            lambda: preference.mallows_link(X, PHI, link="cubic", epsilon=0.0),
            "epsilon: received 0.0; it must be positive",
        ),
        (lambda: preference.mallows_link(jnp.arange(4), PHI), "s: .* it must be an array of float"),
    ],
)
def test_what_is_refused(call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_traced_dispersion_out_of_range_shows():
    loss = jax.jit(lambda phi: preference.mallows_theta(X, X, beta=0.1, dispersion=phi))
    assert np.isnan(loss(jnp.full(4, 1.5))).all() and np.isnan(loss(jnp.full(4, -0.5))).all()
