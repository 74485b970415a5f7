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
        "suboptimality/cpg/dt=0.01": "<= 0.01",
        "suboptimality/cppo/dt=0.01": "<= 0.01",
    },
    pictures=("curves.png",),
)
