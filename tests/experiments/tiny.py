"""The smallest run of the main experiment, as a command line."""

TINY_ANALYTIC = """
--no-progress --steps 4 --solver-steps 5 --update.minibatches 5 --optimization.batch 16
--frontier-samples 256 --evaluation-samples 128
""".split()  # noqa: SIM905
"""Where the score and the reward are known."""

_LEARNED = """
--value.epochs 1 --optimization.warmup 1 --pretraining.steps 20 --pretraining.batch 32
--preferences.pairs 50 --preferences.steps 10 --model.width 16 --model.depth 1 --evaluate-every 2
--checkpoint-every 1
""".split()  # noqa: SIM905
TINY = [*TINY_ANALYTIC, *_LEARNED]

TINY_CIFAR10 = """
--tiny --no-progress --steps 4 --optimization.batch 8 --optimization.warmup 1
--network.width 8 --network.multipliers 1 --network.blocks 1 --network.attention
--solver ancestral --solver-steps 3 --evaluation.samples 10 --evaluation.batch 8
--fetch-every 1 --checkpoint-every 2 --snapshot-every 3
""".split()  # noqa: SIM905
"""The same for the CIFAR-10 programme."""
