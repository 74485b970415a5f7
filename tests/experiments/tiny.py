"""The smallest run of the main experiment, as a command line."""

TINY = """
--no-progress --steps 4 --solver-steps 5 --update.minibatches 5 --update.value-epochs 1
--optimisation.batch 16 --optimisation.warmup 1 --pretraining.steps 20 --pretraining.batch 32
--preferences.pairs 50 --preferences.steps 10 --frontier-samples 256 --evaluation-samples 128
--model.width 16 --model.depth 1 --evaluate-every 2 --checkpoint-every 1
""".split()  # noqa: SIM905
