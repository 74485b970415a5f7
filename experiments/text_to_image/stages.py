"""The stages before fine-tuning, in their order; each is found again where it was made before."""

from experiments.study import Conduct
from experiments.text_to_image import autoencoder, detector, generator, towers
from experiments.text_to_image.config import Config
from experiments.text_to_image.scenes import requests
from experiments.text_to_image.training import Kept, keep


def build(config: Config, study: Conduct) -> dict[str, Kept]:
    """Return what the stages make, by their names."""
    known, cache = study.loaded, config.cache
    found = requests(known, config.run.seed)
    captions = [request.caption for request in found]
    gold = keep(
        study,
        cache,
        "detector",
        [config.things, config.detector],
        lambda folder, stage: detector.train(study, folder, stage, config.things, config.detector),
    )
    proxy = keep(
        study,
        cache,
        "towers",
        [config.things, captions, config.towers],
        lambda folder, stage: towers.train(study, folder, stage, config.towers, found, known),
    )
    latents = keep(
        study,
        cache,
        "autoencoder",
        [config.things, captions, config.autoencoder, gold.name],
        lambda folder, stage: autoencoder.train(
            study, folder, stage, config.autoencoder, known, gold.folder
        ),
    )
    made = keep(
        study,
        cache,
        "generator",
        [config.generator, proxy.name, latents.name],
        lambda folder, stage: generator.train(
            study,
            folder,
            stage,
            config.generator,
            (config.towers, proxy.folder),
            (config.autoencoder, latents.folder),
            found,
            known,
        ),
    )
    return {"detector": gold, "towers": proxy, "autoencoder": latents, "generator": made}
