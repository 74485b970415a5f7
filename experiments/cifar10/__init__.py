"""Training and evaluation of contractive diffusion models on images."""

from experiments.study import Study

STUDY = Study(
    "cifar10",
    about="contractive sub-VP against VE and VP; --tiny: made images, else hours on a GPU",
    claim=(
        "A contractive sub-VP process trains NCSN++ on CIFAR-10 to an FID and an Inception score "
        "at least as good as VE and VP do, under the same settings."
    ),
    source="arXiv 2401.13115, CIFAR-10 table; sub_vp: arXiv 2011.13456, table of CIFAR-10",
    minutes=14,
    options="--tiny",
    pictures=("samples.png",),
)
