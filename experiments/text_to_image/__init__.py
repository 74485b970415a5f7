"""A text-to-image model of one's own, fine-tuned from rewards, with no download."""

from experiments.study import Study

STUDY = Study(
    "text_to_image",
    about="an own text-to-image model, fine-tuned by ctrl-jax fine-tune; offline",
    claim=(
        "A text-to-image model is fine-tuned from rewards of any kind by the same command as a "
        "published one, close to what is reachable on the captions of its pre-training."
    ),
    source="categories: GenEval, arXiv 2310.11513; methods: 2409.08400, 2505.05470",
    minutes=20,
    expected={
        "accuracy/*": ">= 0.98",
        "success/before": "0.55 ± 0.25",
        "success/seen/after": ">= 0.95 x reachable",
        "success/unseen/after": "> success/unseen/before",
    },
    pictures=("samples.png", "frontier.png"),
)
