"""Build a small text-to-image model in stages, and fine-tune it by `ctrl-jax fine-tune`.

The stages are in this folder; what each makes is kept in runs/pretrained and found again by all
that it depends on.
"""

from pathlib import Path

from ctrl_jax.runtime import command
from experiments.study import Conduct
from experiments.text_to_image import STUDY, autoencoder, detector, generator, towers
from experiments.text_to_image.config import Config
from experiments.text_to_image.scenes import requests
from experiments.text_to_image.things import things
from experiments.text_to_image.training import Kept, keep


def main(config: Config) -> Path:
    """Run the study and return the folder of its results."""
    study = STUDY.begin(config, lambda mesh: things(config.things))
    world = build(config, study)
    metrics = {name: value for kept in world.values() for name, value in kept.facts.items()}
    study.write(metrics, str(world["generator"].name))
    return study.close()


def build(config: Config, study: Conduct) -> dict[str, Kept]:
    """Return what the stages make, by their names."""
    known, seed, cache = study.loaded, config.run.seed, config.cache
    found = requests(known, seed)
    texts = [config.things, [request.caption for request in found]]
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
        [*texts, config.towers],
        lambda folder, stage: towers.train(study, folder, stage, config.towers, found, known),
    )
    latents = keep(
        study,
        cache,
        "autoencoder",
        [*texts, config.autoencoder, gold.name],
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


if __name__ == "__main__":
    command(Config, main)
