"""Continuous-time control of generative models, as pure functions in JAX.

The floors, from the mathematics up; each imports only those below it::

    runtime        mesh, checkpoints, data, logs, the training loop
    algorithms     (init, step) pairs
    pretrained     weights of published networks, from local files
    networks       Flax NNX modules, seen from above as callables
    losses         pure: arrays in, one value per example out
    rewards, metrics, environments
    solvers        simulate, sample, girsanov
    processes      forward SDEs, reversal, parameterizations, grids
"""

__version__ = "0.2.0"
