"""The five-armed bandit of Mallows-DPO."""

from experiments.study import Study

KNOWN = {
    "reward/dpo/beta=0.05": 15.53,
    "kl/dpo/beta=0.05": 1.46,
    "reward/dpo/beta=0.1": 15.505,
    "kl/dpo/beta=0.1": 1.58,
    "reward/dpo/beta=0.5": 15.73,
    "reward/dpo/beta=1": 15.86,
    "reward/mallows_phi/beta=0.05": 16.04,
    "kl/mallows_phi/beta=0.05": 0.44,
    "reward/mallows_phi/beta=0.1": 15.92,
    "kl/mallows_phi/beta=0.1": 0.33,
    "reward/mallows_phi/beta=0.5": 15.87,
    "reward/mallows_phi/beta=1": 15.77,
    "probability_of_A1/dpo/beta=0.05": 0.971,
    "probability_of_A1/dpo/beta=0.1": 0.995,
}
"""From the uniform policy, after 500 000 steps of 5e-3 at phi = .05, to .01."""
STUDY = Study(
    "mallows_bandit",
    about="which preference losses collapse on one arm, and what it costs",
    claim=(
        "DPO with a small beta puts all its weight on one arm of a bandit; Mallows-phi-DPO does "
        "not, and so has more reward at a smaller divergence."
    ),
    source="arXiv 2405.14953, the synthetic bandit experiment",
    minutes=2,
    expected={name: f"{value} ± 0.01" for name, value in KNOWN.items()},
    pictures=("frontier.png",),
)
