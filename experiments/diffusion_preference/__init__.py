"""Annotators who agree on some classes and divide on others, and what learns from them."""

from experiments.study import Study

STUDY = Study(
    "diffusion_preference",
    about="a diffusion model that learns from comparisons without a reward model",
    claim=(
        "Told on which prompts people divide, preference optimization of a diffusion model spends "
        "its divergence where they agree."
    ),
    source=(
        "arXiv 2405.14953 (Mallows-DPO), 2305.18290 (DPO), 2311.12908 (offline), 2409.08400 "
        "(PPO); on paths of a diffusion model, ours"
    ),
    minutes=6,
    expected={"w2/tilted/exact/*": "< 0.05"},
    pictures=("online.png",),
)
