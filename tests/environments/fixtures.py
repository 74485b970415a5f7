"""The problems of fixtures O1, O2 and O3, made in the precision of the test that asks."""

from ctrl_jax.environments import LinearQuadratic, PairTrading, VectorLinearQuadratic

START = (0.4, 0.7)
"""First and second raw moment of O1's start law."""


def o1(**changes):
    arguments = {
        "A": -1.0,
        "B": 0.6,
        "C": 0.3,
        "D": 0.5,
        "M": 2.0,
        "N": 2.0,
        "R": 1.0,
        "P": 1.0,
        "Q": 2.0,
        "discount": 1.0,
        "temperature": 0.1,
    }
    return LinearQuadratic(**(arguments | changes))


def o2(**changes):
    arguments = {
        "A": [[-0.5, 0.3], [0.1, -0.8]],
        "B": [[0.7, 0.2], [-0.1, 0.5]],
        "M": [[1.5, 0.2], [0.2, 1.0]],
        "N": [[1.0, 0.1], [0.1, 0.8]],
        "R": [[0.2, 0.0], [0.1, 0.3]],
        "noise": [[0.4, 0.0], [0.0, 0.3]],
        "discount": 0.6,
        "temperature": 0.2,
    }
    return VectorLinearQuadratic(**(arguments | changes))


def o3(**changes):
    arguments = {
        "k": 1.0,
        "theta": 0.1,
        "eta": 0.25,
        "sigma": 0.3,
        "rho": 0.4,
        "r": 0.02,
        "discount": 0.5,
        "temperature": 0.05,
    }
    return PairTrading(**(arguments | changes))
