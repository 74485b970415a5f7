"""Preference losses as TRL computes them, on random inputs.

`PYTHONPATH=. python tests/oracles/trl_losses.py > tests/oracles/trl_losses.json` in an environment
with trl==1.16.0 writes the stored values; the peers' test calls `values` where TRL is installed.
DPO's and KTO's trainers compute their losses from a model's outputs: here a model that returns
given log-probabilities of its tokens, one pair at a time where a loss is of its own pair alone.
"""

import json
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np

PAIRS = 12
DPO = {
    "dpo": {"loss_type": "sigmoid"},
    "robust": {"loss_type": "robust", "label_smoothing": 0.2},
    "hinge": {"loss_type": "hinge"},
    "ipo_per_token": {"loss_type": "ipo"},
    "sigmoid_norm": {"loss_type": "sigmoid_norm"},
    "exo": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "exo_smoothed": {"loss_type": "exo_pair", "label_smoothing": 0.1},
    "nca": {"loss_type": "nca_pair"},
    "bco_unshifted": {"loss_type": "bco_pair"},
    "sppo": {"loss_type": "sppo_hard"},
    "apo_zero": {"loss_type": "apo_zero"},
    "apo_down": {"loss_type": "apo_down"},
    "discopop": {"loss_type": "discopop"},
    "sft": {"loss_type": "sft"},
    "jensen_shannon": {"loss_type": "sigmoid", "divergence": "js_divergence"},
    "forward_kl": {"loss_type": "sigmoid", "divergence": "forward_kl"},
    # TRL's coefficient is one less ours.
    "alpha": {"loss_type": "sigmoid", "divergence": "alpha_divergence", "coefficient": 0.7},
}
"""The losses of DPO's trainer that are of one pair, by the names of the test's table."""


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
    for answer in ("chosen", "rejected"):
        arrays[f"tokens_{answer}"] = generator.integers(2, 30, PAIRS)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def values() -> dict[str, list[float]]:
    """Every loss of TRL's that is among ours, by the names of the test's table."""
    import torch
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    sums = [x["policy_chosen"], x["policy_rejected"]]
    ratios = [x[f"policy_{a}"] - x[f"ref_{a}"] for a in ("chosen", "rejected")]
    means = [x["mean_chosen"], x["mean_rejected"]]

    def cpo(loss_type, arguments, beta, label_smoothing=0.0, gamma=0.0, alpha=0.0):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(device="cpu"),
            alpha=alpha,
            beta=beta,
            loss_type=loss_type,
            label_smoothing=label_smoothing,
            simpo_gamma=gamma,
        )
        return CPOTrainer.cpo_loss(trainer, *arguments)[0]

    orpo = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), beta=0.1)
    alone = [np.arange(i, i + 1) for i in range(PAIRS)]
    results = {name: [dpo(x, rows, **how) for rows in alone] for name, how in DPO.items()}
    results |= {
        # The means of a batch.
        "aot": dpo(x, np.arange(PAIRS), loss_type="aot", label_smoothing=0.1),
        "aot_unpaired": dpo(x, np.arange(PAIRS), loss_type="aot_unpaired", label_smoothing=0.1),
        "two_losses": dpo(x, np.arange(PAIRS), loss_type=["sigmoid", "ipo"], weights=[0.7, 0.2]),
        "kto": kto(x, 1.0, 1.0),
        "kto_weighted": kto(x, 1.5, 0.5),
        # The formula is that of DPO with smoothed labels.
        "dpo_smoothed": cpo("sigmoid", ratios, beta=0.1, label_smoothing=0.2).tolist(),
        "ipo": cpo("ipo", ratios, beta=0.1).tolist(),
        "cpo": cpo("sigmoid", sums, beta=0.1).tolist(),
        "cpo_smoothed": cpo("sigmoid", sums, beta=0.1, label_smoothing=0.1).tolist(),
        "simpo": cpo("simpo", means, beta=2.0, gamma=0.5).tolist(),
        "simpo_smoothed": cpo("simpo", means, 2.0, label_smoothing=0.1, gamma=0.5).tolist(),
        "alphapo": cpo("simpo", means, beta=2.0, gamma=0.5, alpha=0.25).tolist(),
        # What TRL's trainer adds to the negative likelihood.
        "odds_ratio": (-ORPOTrainer.odds_ratio_loss(orpo, *means)[0]).tolist(),
    }
    return results


def trainer_of(**options):
    """What a trainer's method reads of it."""
    gathered = {"gather": lambda t: t, "gather_for_metrics": lambda t: t}
    return SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", autocast=nullcontext, **gathered),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **options,
    )


def outputs_of(sums, tokens):
    """A model whose answers have these log-probabilities, the same for every token of one."""
    import torch

    width = int(tokens.max())
    mask = (torch.arange(width)[None] < tokens[:, None]).float()
    mask = torch.cat([torch.zeros(len(mask), 1), mask], dim=1)
    shifted = mask[:, 1:]
    blank = torch.zeros_like(shifted)
    outputs = SimpleNamespace(
        log_probs=shifted * (sums / tokens)[:, None],
        entropy=blank,
        mean_logits=blank,
        is_top1=blank.bool(),
    )

    class Model:
        training = True

        def __call__(self, **ignored):
            return outputs

    ids = torch.zeros_like(mask, dtype=torch.long)
    return Model(), {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask.long(),
    }


def dpo(x, rows, loss_type, weights=None, label_smoothing=0.0, divergence=None, coefficient=0.5):
    """The mean loss of some pairs by DPO's trainer."""
    import torch
    from trl import DPOTrainer

    both = ("chosen", "rejected")
    sums, tokens = (torch.cat([x[f"{k}_{a}"][rows] for a in both]) for k in ("policy", "tokens"))
    model, batch = outputs_of(sums, tokens)
    batch |= {f"ref_{a}_logps": x[f"ref_{a}"][rows] for a in both}
    types = [loss_type] if isinstance(loss_type, str) else loss_type
    trainer = trainer_of(
        ld_alpha=None,
        f_divergence_type=divergence or "reverse_kl",
        f_alpha_divergence_coef=coefficient,
        loss_types=types,
        loss_weights=weights or [1.0] * len(types),
        beta=0.1,
        label_smoothing=label_smoothing,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=0.05),
    )
    return DPOTrainer._compute_loss(trainer, model, batch, False).item()


def kto(x, desirable_weight, undesirable_weight):
    """The loss of each answer by KTO's trainer, all in one batch with its one divergence."""
    import torch
    from trl import KTOTrainer

    both = ("chosen", "rejected")
    policy, ref, tokens = (
        torch.cat([x[f"{k}_{a}"] for a in both]) for k in ("policy", "ref", "tokens")
    )
    losses = []
    for i in range(2 * PAIRS):
        model, batch = outputs_of(policy[i : i + 1], tokens[i : i + 1])
        trainer = trainer_of(
            calculate_KL=True,
            loss_type="kto",
            beta=0.1,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
            _compute_kl_logps=lambda model, batch: x["unrelated_policy_chosen"],
        )
        batch |= {
            "label": torch.tensor([i < PAIRS]),
            "ref_logps": ref[i : i + 1],
            "ref_KL_logps": x["ref_chosen"],
        }
        losses.append(KTOTrainer._compute_loss(trainer, model, batch, False).item())
    return losses


if __name__ == "__main__":
    import trl

    print(json.dumps({"trl": trl.__version__, "values": values()}, indent=1))
