"""The Mallows-phi link and its slopes against 50 digits, and its laws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses.preference import mallows_link, mallows_log_link, mallows_phi
from tests.oracles import mallows as oracle

PHIS = [1e-6, 1e-3, 0.05, 0.36787, 0.36789, 0.5, 0.6, 0.95, 0.999, 1 - 1e-5, 1 - 1e-6]
SIZES = [1e-20, 1e-6, 1e-3, 0.1, 0.7, 1.0, 3.0, 30.0, 1e3, 1e4]


log_link = jax.jit(mallows_log_link)
each_slope = jax.jit(jax.vmap(jax.grad(mallows_log_link, argnums=(0, 1))))


def grid(dtype, wide: Any = np.float32, sizes=SIZES):
    """Every s with every phi, s rounded to `dtype` and phi to `wide`."""
    s = np.asarray([0.0, *sizes, *(-x for x in sizes)], dtype)
    return np.repeat(s, len(PHIS)), np.tile(np.asarray(PHIS, wide), s.size)


def log_links(s, phi):
    return np.array([oracle.log_link(x, y) for x, y in zip(s, phi, strict=True)])


def slopes(s, phi):
    pairs = zip(s, phi, strict=True)
    return np.array([oracle.slopes(x, y) for x, y in pairs]).T


def test_in_float32():
    s, phi = grid(np.float32)
    expected, found = log_links(s, phi), log_link(s, phi)
    # What was asked for, 1e-5 (1 + |log g|), and what there is: rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # The small half in relative terms, also where 1 - g is 1e-30.
    least = np.abs(expected) > 1e-36
    np.testing.assert_allclose(np.asarray(found)[least], expected[least], rtol=1e-5)
    for name, ours, theirs in zip(["s", "phi"], each_slope(s, phi), slopes(s, phi), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-30, err_msg=name)
    np.testing.assert_allclose(
        jax.jit(mallows_link)(s, phi), np.exp(expected), rtol=1e-5, atol=1e-37
    )


def test_in_float64(float64):
    s, phi = grid(np.float64, np.float64, SIZES[::3])
    # 1 - g is 1e-15 of rounding from g.
    np.testing.assert_allclose(log_link(s, phi), log_links(s, phi), rtol=1e-13, atol=1e-15)
    for ours, theirs in zip(each_slope(s, phi), slopes(s, phi), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-13, atol=1e-60)


def test_in_bfloat16():
    """Within one unit of the last place; phi and its slope stay in float32."""
    s, phi = grid(jnp.bfloat16, sizes=SIZES[::2])
    found, (in_s, in_phi) = log_link(s, phi), each_slope(s, phi)
    assert found.dtype == in_s.dtype == jnp.bfloat16 and in_phi.dtype == jnp.float32
    expected, (slope_s, slope_phi) = log_links(s, phi), slopes(s, phi)

    def unit(x):  # of the last place; XLA has no subnormal numbers
        return np.maximum(2.0 ** (np.floor(np.log2(np.abs(x) + 1e-38)) - 7), 2.0**-126)

    for ours, theirs in (
        (found, expected),
        (in_s, slope_s),
        (jax.jit(mallows_link)(s, phi), np.exp(expected)),
    ):
        assert (np.abs(np.asarray(ours, np.float64) - theirs) <= unit(theirs)).all()
    np.testing.assert_allclose(in_phi, slope_phi, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(
    ("phi", "at_zero", "at_one"),
    [(0.05, 0.7188, 0.9524), (0.1, 0.6768, 0.9091), (0.5, 0.5573, 0.6667), (0.95, 0.5043, 0.5128)],
)
def test_known_values(phi, at_zero, at_one):
    # g(0+) = 1/(1 - phi) + 1/log phi and g(1) = 1/(1 + phi).
    found = mallows_link(jnp.asarray([0.0, 1.0, -1.0]), phi)
    np.testing.assert_allclose(found, [at_zero, at_one, 1 - at_one], atol=5e-5)


def test_limits():
    s = jnp.asarray([-5.0, -1e-3, 1e-3, 5.0])
    # Uniform rankings; then everybody agrees, as far as the type can say.
    np.testing.assert_allclose(mallows_link(s, 1.0), 0.5, rtol=1e-6)
    slopes = each_slope(s, jnp.ones(4))
    assert np.isfinite(slopes).all() and not np.asarray(slopes[0]).any()
    np.testing.assert_allclose(mallows_link(s[jnp.asarray([0, 3])], 1e-37), [0, 1], atol=1e-7)


def test_halves_add_up_and_order_is_kept():
    link = jax.jit(mallows_link)
    s, phi = grid(np.float32)
    g = np.asarray(link(s, phi))
    other = np.where(s == 0, 1 - g, link(-s, phi))
    np.testing.assert_allclose(g + other, 1.0, rtol=1e-6)
    line = np.linspace(-8, 8, 400, dtype=np.float32)
    for y in PHIS:
        assert (np.diff(link(line, np.float32(y))) > -1e-6).all()


def test_zero_is_the_limit_from_the_right():
    for zero in (0.0, -0.0):
        at, near = jnp.asarray(zero), jnp.asarray(1e-7)
        np.testing.assert_allclose(mallows_link(at, 0.05), mallows_link(near, 0.05), rtol=1e-6)
        slope = jax.grad(mallows_link)
        np.testing.assert_allclose(slope(at, 0.05), slope(near, 0.05), rtol=1e-5)
    assert jax.grad(mallows_link)(jnp.asarray(0.0), 0.05) > 0


def cubic_by_solving(s, phi, epsilon):
    """a_1 and a_3 from the two equations at epsilon, in float64 with the decimal link."""
    step = 1e-6
    g, ahead, behind = (np.exp(oracle.log_link(epsilon + d, phi)) for d in (0, step, -step))
    slope = (ahead - behind) / (2 * step)
    equations = [[epsilon, epsilon**3], [1, 3 * epsilon**2]]
    a_1, a_3 = np.linalg.solve(equations, [g - 0.5, slope])
    return 0.5 + a_1 * s + a_3 * s**3


@pytest.mark.parametrize("phi", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("width", ["default", "twice alpha"])
def test_the_cubic(phi, width):
    epsilon = None if width == "default" else jnp.float32(-2 * np.log(phi))
    half = 0.1 if epsilon is None else float(epsilon)
    s = jnp.linspace(-1, 1, 21) * half
    found = mallows_link(s, phi, link="cubic", epsilon=epsilon)
    expected = cubic_by_solving(np.asarray(s, np.float64), phi, half)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    logs = mallows_log_link(s, phi, link="cubic", epsilon=epsilon)
    np.testing.assert_allclose(logs, np.log(expected), rtol=1e-4, atol=2e-6)
    # Beyond it the exact link; at the seam value and slope meet.
    beyond = jnp.asarray([1.5, -1.5]) * half
    np.testing.assert_allclose(
        mallows_link(beyond, phi, link="cubic", epsilon=epsilon),
        mallows_link(beyond, phi),
        rtol=1e-6,
    )
    slope = jax.grad(lambda x: mallows_link(x, phi, link="cubic", epsilon=epsilon))
    inside, outside = slope(jnp.float32(half * (1 - 1e-5))), slope(jnp.float32(half * (1 + 1e-5)))
    np.testing.assert_allclose(inside, outside, atol=2e-4)


def test_the_surrogates_are_smooth_where_the_exact_link_jumps():
    around = jnp.asarray([-1e-6, 0.0, 1e-6])
    for link in ("sigmoid", "cubic"):
        np.testing.assert_allclose(mallows_link(around, 0.05, link=link), 0.5, atol=1e-5)
    assert abs(np.diff(mallows_link(around, 0.05))[0]) > 0.4


def test_the_slopes_of_the_cubic(float64):
    """With epsilon = -2 log phi of each example, inside and beyond it, at zero too."""
    phi = jnp.asarray([0.05, 0.5, 0.99, 0.99], jnp.float64)
    s = jnp.asarray([0.0, -0.3, 0.01, 0.05], jnp.float64)

    def link(s, phi):
        return mallows_log_link(s, phi, link="cubic", epsilon=-2 * jnp.log(phi))

    slopes = jax.jit(jax.grad(lambda *x: jnp.sum(link(*x)), argnums=(0, 1)))(s, phi)
    h, value = 1e-6, jax.jit(link)
    moved = [(s + h, phi), (s - h, phi), (s, phi + h), (s, phi - h)]
    numerical = [(value(*moved[i]) - value(*moved[i + 1])) / (2 * h) for i in (0, 2)]
    np.testing.assert_allclose(slopes, numerical, rtol=1e-6, atol=1e-9)


def test_a_cubic_of_no_width_is_the_exact_link():
    """-2 log phi is 0 at phi = 1, the dispersion of a pair without a response; 1e-14 has a cube
    that float32 has not."""

    def link(s, phi):
        return mallows_log_link(s, phi, link="cubic", epsilon=-2 * jnp.log(phi))

    s, phi = jnp.asarray([0.3, -0.3]), jnp.ones(2)
    found = jax.jit(jax.grad(lambda *x: jnp.sum(link(*x)), argnums=(0, 1)))(s, phi)
    expected = each_slope(s, phi)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    thin = mallows_link(jnp.asarray([0.0, 5e-15, 0.3]), 0.5, link="cubic", epsilon=1e-14)
    # Half way down, where the slope at the seam counts for nothing: (6) leaves 11/16 of the rise.
    np.testing.assert_allclose(thin[:2], [0.5, 0.5 + 11 / 16 * 0.0573], atol=5e-5)
    np.testing.assert_allclose(thin[2], mallows_link(jnp.float32(0.3), 0.5), rtol=1e-6)


def test_the_loss_in_log_space():
    """m = -1e4 at phi = 1e-6: 1 - g is 1e-60000, the loss 1e5 and its slope -alpha."""
    loss, slope = jax.value_and_grad(
        lambda m: mallows_phi(m, jnp.zeros(()), beta=1.0, dispersion=jnp.float32(1e-6))
    )(jnp.float32(-1e4))
    np.testing.assert_allclose(loss, -oracle.log_link(-1e4, np.float32(1e-6)), rtol=1e-6)
    np.testing.assert_allclose(slope, np.log(1e-6), rtol=1e-4)
