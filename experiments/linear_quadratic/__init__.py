"""Policy optimization in continuous time on linear-quadratic control, whose optimum is known."""

from experiments.study import Study

STUDY = Study(
    "linear_quadratic",
    about="continuous against discrete time as the step goes to zero",
    claim=(
        "With one number of transitions per trajectory at every step, policy gradient and PPO "
        "formulated in continuous time reach the optimum of linear-quadratic control at any step, "
        "where those of discrete time lose it as the step goes to zero. This needs q without its "
        "martingale increment; with the difference quotient the continuous forms lose it too, more "
        "slowly. Given every transition (training.draws = horizon / step), at a cost that grows "
        "like 1 / step, those of discrete time keep it as well."
    ),
    source="arXiv 2305.18901, sections 3-5 (linear-quadratic; its parameters are not given)",
    minutes=5,
    expected={
        **{
            f"suboptimality/{method}/dt={dt}": "<= 0.01"
            for method in ("cpg", "cppo_sqrt_kl", "cppo_linear_kl", "cppo_clipped")
            for dt in (0.01, 0.003, 0.001)
        },
        "estimators/difference/slope": "-1 ± 0.1",
        "estimators/pathwise/slope": ">= -0.05",
    },
    pictures=("steps.png", "estimators.png"),
)
