"""Contractive processes against their twins: processes, errors of the score, measurements."""

from experiments.study import Study

STUDY = Study(
    "contraction",
    about="does a contracting sampler forgive a wrong score?",
    claim=(
        "A process whose reversal contracts ends closer to the data when its score is wrong, and "
        "the distance stays below the bound of theorem 1."
    ),
    source="arXiv 2401.13115, theorem 1 and section 5",
    minutes=7,
    pictures=("errors.png", "swiss_roll_distances.png"),
)
