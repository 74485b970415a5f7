"""Options of `experiments.cifar10`."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_count, check_decay, check_fields, check_positive, refuse
from ctrl_jax.models.image import ImageDiffusionSpec, Kind
from ctrl_jax.networks import NCSNppConfig
from ctrl_jax.runtime import RunOptions
from experiments.cifar10.data import TINY_HELD_OUT, TINY_IMAGES
from experiments.options import COMMON, Common

Solver = Literal["predictor_corrector", "ancestral", "euler_maruyama", "probability_flow"]


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Training of the score network.

    Args:
        batch: images per update, over all devices.
        learning_rate: step size of Adam after the warm-up.
        warmup: updates in which the step size grows linearly from 0; 0 for none.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of the moving average of the weights that samples are drawn
            with.
        flips: mirror half of the images, at random.
        start: smallest forward time that training sees, of a horizon of 1.
    """

    batch: int = 128
    learning_rate: float = 2e-4
    warmup: int = 5000
    gradient_clip: float = 10.0
    average_decay: float = 0.999
    flips: bool = True
    start: float = 1e-5

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        group = "optimization"
        check_count("optimization.batch", self.batch)
        check_count("optimization.warmup", self.warmup, least=0)
        check_fields(self, check_positive, "learning_rate", "gradient_clip", "start", group=group)
        check_decay("optimization.average_decay", self.average_decay)
        if self.start >= 1:
            rule = "it must lie below the horizon, 1"
            raise refuse("optimization.start", self.start, rule, "give e.g. 1e-5")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Samples of the trained network, and what is measured on them.

    Args:
        samples: samples to draw; published numbers are for 50000. At least 2.
        batch: samples drawn at once, over all devices.
        likelihood: held-out images whose likelihood is computed, in bits per dimension; hundreds of
            network evaluations each.
        inception: safetensors file of the Inception-v3 weights behind FID (see
            ctrl_jax.pretrained.inception); without it the Frechet distance is of block means of the
            pixels only.
    """

    samples: int = 50_000
    batch: int = 512
    likelihood: int = 0
    inception: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("evaluation.samples", self.samples, least=2)
        check_count("evaluation.batch", self.batch)
        check_count("evaluation.likelihood", self.likelihood, least=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Train NCSN++ on CIFAR-10 with one of four processes, and measure FID and Inception score.

    Source: Contractive diffusion probabilistic models, arXiv 2401.13115, table of CIFAR-10; network
    and training of Song et al., 2011.13456. Reported there, FID / Inception score: contractive
    sub-VP 2.47 / 10.18, VE 2.50 / 9.68, VP 2.55 / 9.58; by Song et al. for sub-VP 2.61 / 9.56.

    One machine with 8 GPUs:
      python -m experiments.cifar10 --data cifar-10-batches-bin --process contractive_sub_vp
      --evaluation.inception inception.safetensors --out runs/cifar10/csubvp --resume latest
    A TPU slice, the same command on every host: add --distributed on --precision bfloat16.

    Cost, estimated and not measured: an update is 8 TFLOP, 1.3 million are 1e19; at 25 TFLOP/s
    sustained by each of 8 GPUs 14 hours, and 50000 samples of 2000 evaluations 3 hours more.
    --tiny runs the same programme in minutes on 2 CPU cores, on images it makes itself.

    Args:
        process: forward process.
        coefficients: smallest and largest noise std (ve) or noise rate (others) for images in [-1,
            1]; those of the papers by default: ve 0.02 100, vp and sub_vp 0.1 20,
            contractive_sub_vp 1 8.
        sampling_end: forward time at which sampling stops; 1e-3 for vp and sub_vp, 1e-5 for the
            others.
        data: folder with data_batch_*.bin and test_batch.bin (the binary version of CIFAR-10), or
            any other images that the library reads.
        tiny: small defaults throughout, and a data set in CIFAR-10's format made in the run's
            folder.
        solver: how samples are drawn; predictor_corrector (Euler-Maruyama, then Langevin) evaluates
            the network twice a step, the others once.
        solver_steps: steps of the sampler, at equal distances in time.
        snr: signal-to-noise ratio of the corrector; 0.16 for ve and 0.2 for the others by default.
        fetch_every: updates between two lines of metrics.jsonl being written.
        checkpoint_every: updates between checkpoints.
        snapshot_every: updates between pictures of 64 samples; 0 for none.
        network: what predicts the score.
        optimization: the optimizer and its budget.
        evaluation: what is measured, of how many samples.
        run: the common options.
    """

    process: Kind = "contractive_sub_vp"
    coefficients: tuple[float, float] | None = None
    sampling_end: float | None = None
    data: str | None = None
    tiny: bool = False
    solver: Solver = "predictor_corrector"
    solver_steps: int = 1000
    snr: float | None = None
    fetch_every: int = 100
    checkpoint_every: int = 10_000
    snapshot_every: int = 50_000
    network: NCSNppConfig = dataclasses.field(default_factory=NCSNppConfig)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    run: Common = COMMON

    def spec(self) -> ImageDiffusionSpec:
        """Return process and network."""
        return ImageDiffusionSpec(self.process, self.coefficients, self.sampling_end, self.network)

    def updates(self) -> int:
        """Return the number of updates."""
        return self.run.steps or 1_300_000

    def validate(self) -> None:
        """Raise ValueError for options that do not fit together.

        Not those of the process: it computes, and before that the processes of a run must join.
        """
        check_count("solver_steps", self.solver_steps, least=2)
        check_fields(self, check_count, "fetch_every", "checkpoint_every")
        check_count("snapshot_every", self.snapshot_every, least=0)
        if self.snr is not None:
            check_positive("snr", self.snr)
            if self.snr >= 1:
                rule = "it must be below 1, or the corrector overshoots"
                raise refuse("snr", self.snr, rule, "give one such as 0.16")
            if self.solver != "predictor_corrector":
                rule = "only predictor_corrector has a corrector"
                raise refuse("snr", self.snr, rule, "leave it out")
        if self.tiny and self.data is not None:
            rule = "--tiny makes its own data"
            raise refuse("data", self.data, rule, "leave out one of them")
        if self.tiny and self.optimization.batch > TINY_IMAGES:
            rule = f"--tiny makes {TINY_IMAGES} images"
            value = self.optimization.batch
            raise refuse("optimization.batch", value, rule, "give no more than that")
        if self.tiny and self.evaluation.likelihood > TINY_HELD_OUT:
            rule = f"--tiny makes {TINY_HELD_OUT} test images"
            value = self.evaluation.likelihood
            raise refuse("evaluation.likelihood", value, rule, "ask for no more than that")
        if not self.tiny and self.data is None:
            rule = "a folder of images is needed, and nothing is downloaded"
            raise refuse("data", None, rule, "give --data FOLDER, or --tiny for made images")


TINY = Config(
    tiny=True,
    solver_steps=50,
    fetch_every=10,
    checkpoint_every=50,
    snapshot_every=0,
    network=NCSNppConfig(width=16, multipliers=(1, 2), blocks=1, attention=(16,)),
    optimization=Optimization(batch=32, learning_rate=2e-3, warmup=20, average_decay=0.98),
    evaluation=Evaluation(samples=128, batch=64),
    run=RunOptions(steps=300),
)
"""The defaults of --tiny."""
