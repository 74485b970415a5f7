"""Preference losses as TRL computes them, on random inputs.

`python tests/oracles/trl_losses.py > tests/oracles/trl_losses.json` in an environment with
trl==0.23.1 writes the stored values; the peers' test calls `values` where TRL is installed.
"""

import json
from types import SimpleNamespace

import numpy as np

PAIRS = 12


def inputs() -> dict[str, np.ndarray]:
    """Log-probabilities of both models, summed (`ref` and `policy`) and per token (`mean`)."""
    generator = np.random.default_rng(20240514)
    arrays = {}
    for answer in ("chosen", "rejected"):
        reference = generator.normal(-60, 20, PAIRS)
        arrays[f"ref_{answer}"] = reference
        arrays[f"policy_{answer}"] = reference + generator.normal(0, 6, PAIRS)
        arrays[f"mean_{answer}"] = -generator.gamma(2, 0.5, PAIRS) - 0.01
        arrays[f"unrelated_policy_{answer}"] = reference + generator.normal(1, 6, PAIRS)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def values() -> dict[str, list[float]]:
    """Every loss of TRL's that is among ours, by the names of the test's table."""
    import torch
    from trl import CPOTrainer, DPOTrainer, KTOTrainer, ORPOTrainer

    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    sums = [x[f"{m}_{a}"] for m in ("policy", "ref") for a in ("chosen", "rejected")]
    means = [x["mean_chosen"], x["mean_rejected"]]
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda tensor: tensor)

    def dpo(loss_type, beta=0.1, label_smoothing=0.0, divergence="reverse_kl", **params):
        trainer = SimpleNamespace(
            accelerator=accelerator,
            reference_free=False,
            beta=beta,
            label_smoothing=label_smoothing,
            f_divergence_type=divergence,
            f_divergence_params=params,
        )
        return DPOTrainer.dpo_loss(trainer, *(t.clone() for t in sums), loss_type)[0]

    def cpo(loss_type, arguments, beta, label_smoothing=0.0, gamma=0.0):
        trainer = SimpleNamespace(
            accelerator=accelerator,
            alpha=0.0,
            beta=beta,
            loss_type=loss_type,
            label_smoothing=label_smoothing,
            simpo_gamma=gamma,
        )
        return CPOTrainer.cpo_loss(trainer, *arguments)[0]

    def kto(desirable_weight, undesirable_weight):
        trainer = SimpleNamespace(
            accelerator=accelerator,
            calculate_KL=True,
            loss_type="kto",
            beta=0.1,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
        )
        unrelated = (x["unrelated_policy_chosen"], x["ref_chosen"])
        return KTOTrainer.kto_loss(trainer, *sums[:2], unrelated[0], *sums[2:], unrelated[1])[0]

    orpo = SimpleNamespace(accelerator=accelerator, beta=0.1)
    results = {
        "dpo": dpo("sigmoid"),
        "dpo_smoothed": dpo("sigmoid", label_smoothing=0.2),
        "robust": dpo("robust", label_smoothing=0.2),
        "hinge": dpo("hinge"),
        "ipo": dpo("ipo"),
        "exo": dpo("exo_pair"),
        "exo_smoothed": dpo("exo_pair", label_smoothing=0.1),
        "nca": dpo("nca_pair"),
        "sppo": dpo("sppo_hard"),
        "apo_zero": dpo("apo_zero"),
        "apo_down": dpo("apo_down"),
        "aot": dpo("aot_pair", label_smoothing=0.1),
        "aot_paired_data": dpo("aot"),
        "jensen_shannon": dpo("sigmoid", divergence="js_divergence"),
        "alpha": dpo("sigmoid", divergence="alpha_divergence", alpha_divergence_coef=0.3),
        "forward_kl": dpo("sigmoid", divergence="alpha_divergence", alpha_divergence_coef=1.0),
        "cpo": cpo("sigmoid", sums[:2], beta=0.1),
        "cpo_smoothed": cpo("sigmoid", sums[:2], beta=0.1, label_smoothing=0.1),
        "simpo": cpo("simpo", means, beta=2.0, gamma=0.5),
        "simpo_smoothed": cpo("simpo", means, beta=2.0, gamma=0.5, label_smoothing=0.1),
        # What TRL's trainers add to the negative likelihood.
        "odds_ratio": -ORPOTrainer.odds_ratio_loss(orpo, *means)[0],
        "kto": kto(1.0, 1.0),
        "kto_weighted": kto(1.5, 0.5),
    }
    return {name: tensor.tolist() for name, tensor in results.items()}


if __name__ == "__main__":
    import trl

    print(json.dumps({"trl": trl.__version__, "values": values()}, indent=1))
