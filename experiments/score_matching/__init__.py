"""Score-matching objectives: what they estimate and what they cost."""

from experiments.study import Study

STUDY = Study(
    "score_matching",
    about="explicit, implicit, sliced and denoising: one gradient, three costs",
    claim=(
        "Explicit, implicit, sliced and denoising score matching have one gradient. Denoising is "
        "the cheapest; it scatters most of all at small times and least, explicit aside, at large "
        "ones. Implicit costs one product per dimension, sliced one in any dimension."
    ),
    source="arXiv 2402.07487, section 4; Hyvarinen 2005, Vincent 2011, Song et al. 2019",
    minutes=2,
    expected={
        # With 12 comparisons of 16 directions a false alarm in 3000.
        "gradients/largest_z": "<= 4.8",
        "d=*/*/slope": "1 ± 4 x d=*/*/slope_error",
    },
    pictures=("efficiency.png", "variance.png"),
)
