"""Fine-tuning of a diffusion model, its score being the action."""

import dataclasses

from experiments.study import Study

STUDY = Study(
    "score_as_action",
    about="digits from preferences by continuous-time RL; --compare: all methods",
    claim=(
        "A diffusion model is fine-tuned from preferences by continuous-time RL, its score as the "
        "action, close to the ideal trade-off of success against divergence."
    ),
    source="arXiv 2409.08400, sections 3-5; frontier: q = p e^{R/lambda} / Z",
    minutes=4,
    expected={
        "gold_success/after": ">= 0.9",
        "kl/path": "<= 1.5 x kl/ideal",
        "diversity/after": ">= 0.7 x diversity/real",
        "traces": "1 ± 0",
    },
    pictures=("samples.png", "frontier.png"),
)
OWN_REWARD = dataclasses.replace(
    STUDY,
    claim="A diffusion model is fine-tuned towards a given reward by continuous-time RL.",
    expected={"traces": "1 ± 0"},
)
ANALYTIC = dataclasses.replace(
    STUDY,
    claim="Continuous-time RL of the score comes near the optimum that is known in closed form.",
    expected={"objective": ">= 1.06 x objective/optimal", "traces": "1 ± 0"},
)
"""Where the optimum is known in closed form; rewards, and so objectives, are negative there.

An algorithm may miss it by 3.5 %, and one evaluation is right to 1.5 % (one standard error).
"""
COMPARISON = dataclasses.replace(
    STUDY,
    claim="How close to the ideal frontier each algorithm comes, and at what price in queries.",
    source="arXiv 2409.08400; 2305.13301 (DDPO); 2305.16381 (DPOK)",
    expected={},
)
