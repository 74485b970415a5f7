"""Fixture O4 for the probability flow: the oracle's Riccati equations give the numbers known.

The optimum of the flow is not the tilt: N(1.3285, .2512) against N(1.4286, .3571).
"""

import numpy as np
import pytest

from tests.oracles.chains import gaussian_score
from tests.oracles.flow_control import FlowControl
from tests.oracles.linear_sdes import VariancePreserving

O4 = FlowControl(VariancePreserving(0.2, 2.0, 3.0), 1.0, 0.5, 0.8, 2.5, 0.3)


def test_value_and_end_law():
    a, b, c = O4.value()(0.0)
    np.testing.assert_allclose(c + 0.5 * b - 0.25 * a, -0.941948, atol=5e-7)
    law = O4.end_law(float(O4.process.variance(3.0)))
    np.testing.assert_allclose(law, (1.328534, 0.251222), atol=5e-7)


@pytest.mark.parametrize("s", [0.2, 1.7, 2.8])
def test_the_optimal_action_maximizes_the_hamiltonian(s):
    """a -> g^2 a J_y / 2 - g^2 (s - a)^2 has its maximum at s + J_y / 4, whatever y."""
    a, b, _ = O4.value()(s)
    slope, intercept = gaussian_score(O4.process, 3.0 - s, 1.0, 0.5)
    for y in (-1.0, 0.4, 2.0):
        score, gradient = slope * y + intercept, b - 2 * a * y
        actions = score + np.linspace(-3, 3, 60001)
        best = actions[np.argmax(actions * gradient / 2 - (score - actions) ** 2)]
        assert abs(best - (score + gradient / 4)) < 1e-4
