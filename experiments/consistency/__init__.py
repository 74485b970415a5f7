"""Consistency models in one and several steps."""

from experiments.study import Study

STUDY = Study(
    "consistency",
    about="one-step samplers, distilled and trained from data, beside DDIM",
    claim=(
        "A consistency model ends a trajectory of the probability flow in one evaluation: "
        "distilled or trained from data alone, it is nearer to the data in one evaluation than "
        "DDIM in one or two."
    ),
    source="arXiv 2303.01469, sections 4-6; 2402.07487, section 5",
    minutes=5,
    expected={
        "*/*/distillation/1": "< */*/ddim/2",
        "*/*/training/1": "< */*/ddim/2",
        "*/*/ddim/100": "<= 2 x */*/true data",
    },
    pictures=("quality.png",),
)
