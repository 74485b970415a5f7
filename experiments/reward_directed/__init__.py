"""Reward-directed diffusion: tasks, methods, measurements, claims and pictures."""

from experiments.study import Study

STUDY = Study(
    "reward_directed",
    about="q-learning directs a diffusion without a pretrained score",
    claim=(
        "A diffusion is directed by a reward with q-learning in continuous time, its score "
        "estimated from data points and never pretrained, as well as fine-tuning directs a "
        "pretrained one."
    ),
    source="arXiv 2409.04832, sections 3-6; ideal law: p e^{w h / 2} / Z",
    minutes=5,
    pictures=("mixture_2d.png", "few_points.png"),
)
