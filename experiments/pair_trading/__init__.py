"""Policy optimization in continuous time on a market whose optimum is known."""

from experiments.study import Study

STUDY = Study(
    "pair_trading",
    about="the same as linear_quadratic on the trading of a pair of stocks",
    claim=(
        "Policy gradient and PPO in continuous time learn to trade a pair of stocks at any step of "
        "time."
    ),
    source="arXiv 2305.18901, section 5 (pair trading; its parameters are not given)",
    minutes=4,
    expected={
        f"suboptimality/{method}/dt=0.01": "<= 0.01"
        for method in ("cpg", "cppo_sqrt_kl", "cppo_linear_kl", "cppo_clipped")
    },
    pictures=("curves.png",),
)
