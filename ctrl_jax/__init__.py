"""Continuous-time control of generative models, as pure functions in JAX.

The floors, from the mathematics up; each imports only those below it::

    commands       what users run on models of their own: `ctrl-jax --help`
    runtime        the folder of a run, the training loop, checkpoints, the mesh
    algorithms     (init, step) pairs
    models         what is saved and loaded: process, network, prediction
    rewards        pure functions of samples: learned ones, published ones of pictures, sums
    pretrained     weights of published networks, from local files
    data           images, preferences and prompts, from local files
    networks       Flax NNX modules, seen from above as callables
    losses         pure: arrays in, one value per example out
    metrics, environments
    solvers        simulate, sample, girsanov
    processes      forward SDEs, reversal, parameterizations, grids
"""

__version__ = "0.2.0"
