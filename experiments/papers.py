"""The papers behind the studies: where each is in the library, and what was found here."""

from typing import NamedTuple


class Paper(NamedTuple):
    """One paper.

    Fields:
        title: of the paper, shortened.
        number: on arXiv.
        authors: their family names.
        modules: where it is in the library.
        studies: that decide its claims.
        verdict: at most 15 words; {METRIC|FORMAT} is filled from the results of the first study.
    """

    title: str
    number: str
    authors: str
    modules: tuple[str, ...]
    studies: tuple[str, ...]
    verdict: str


PAPERS = (
    Paper(
        "Scores as actions",
        "2409.08400",
        "Zhao, Chen, Zhang, Yao, Tang",
        ("algorithms/diffusion/",),
        ("score_as_action", "text_to_image"),
        "{gold_success/after|.0%} success at {kl/ratio|.2f} times the ideal divergence on digits; "
        "captions at far more",
    ),
    Paper(
        "Score-based diffusion models via SDEs",
        "2402.07487",
        "Tang, Zhao",
        ("processes/", "solvers/"),
        ("score_matching", "consistency"),
        "Four objectives, one gradient; one distilled step beats two of DDIM",
    ),
    Paper(
        "Contractive diffusion models",
        "2401.13115",
        "Tang, Zhao",
        ("processes/contraction.py",),
        ("contraction", "cifar10"),
        "Its bound holds; contraction forgives in part from an exact start, seldom from the prior",
    ),
    Paper(
        "Policy optimization for continuous RL",
        "2305.18901",
        "Zhao, Tang, Yao",
        ("algorithms/control/",),
        ("linear_quadratic", "pair_trading"),
        "At step 0.001 CPG leaves {suboptimality/cpg/dt=0.001|.1%} of the gap, "
        "discrete-time policy gradient {suboptimality/pg/dt=0.001|.1%}",
    ),
    Paper(
        "Reward-directed diffusion via q-learning",
        "2409.04832",
        "Gao, Zha, Zhou",
        ("algorithms/q_learning/",),
        ("reward_directed",),
        "Beside DPOK level or ahead, on the line behind; one data point is not enough",
    ),
    Paper(
        "Mallows-DPO",
        "2405.14953",
        "Chen, Zhao, Lam, Yao, Tang",
        ("losses/preference/",),
        ("mallows_bandit", "mallows_lm", "diffusion_preference"),
        "Bandit reproduced; true dispersion helps on text, estimated does not; on images neither",
    ),
)
