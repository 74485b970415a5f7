"""The trained model on disk: what comes out loads where the model came from.

Training changes the weights and nothing else: every other file of the folder is copied byte for
byte, config.json too unless it says another type of the weights. They have the type that they had,
or the one that `--precision` says.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from ctrl_jax._records import read_json
from ctrl_jax._sums import write_sums
from ctrl_jax._typing import Params
from ctrl_jax._whole import whole_folder
from ctrl_jax.commands.preference.model import WEIGHTS, Trained
from ctrl_jax.networks import lora
from ctrl_jax.pretrained import save_adapters, save_decoder
from ctrl_jax.runtime import refuse
from ctrl_jax.runtime.checkpoints.digests import host_array

MODEL = "model"
"""The folder of the trained model, in that of the run."""

_OF_TRAINING = ("adapter_config.json", "trainer_state.json")
_FOLDERS = ("additional_chat_templates",)


def save_model(
    folder: Path,
    trained: Trained,
    params: Params,
    *,
    precision: str | None,
    merge: bool,
    chat_template: str | None = None,
) -> None:
    """Write the trained model, the whole folder or none; that of a run that went on is replaced.

    Args:
        folder: of the model.
        trained: what was trained.
        params: its parameters, with adapters where there are any.
        precision: type of the weights; by default those of the pretrained model, of adapters their
            own.
        merge: whether adapters are added to the weights, for a folder that transformers loads;
            otherwise they are written alone, for PEFT.
        chat_template: the template that it was trained with in place of its own.
    """
    alone = trained.adapters is not None and not merge
    if alone:
        params = lora.split(params)[0]
    elif trained.adapters is not None:
        params = lora.merge(params, trained.adapters)
    dtype = precision or (None if alone else trained.stored)
    # One array at a time: all of them may be too large for one device.
    params = jax.tree.map(host_array, params)
    if jax.process_index() != 0:
        return
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)
    record = trained.pretrained.record
    with whole_folder(folder, replace=True) as unfinished:
        if alone:
            assert trained.adapters is not None
            base = trained.folder.absolute()
            save_adapters(unfinished, record, params, trained.adapters, base=base)
        else:
            save_decoder(unfinished, record, params)
            copy_beside(trained.folder, unfinished)
        if chat_template is not None:
            (unfinished / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        write_sums(unfinished)


def copy_beside(source: Path, target: Path) -> None:
    """Copy what training does not change: all files of a model's folder but its weights."""
    if _says_the_same(source / "config.json", target / "config.json"):
        shutil.copyfile(source / "config.json", target / "config.json")
    names = [path.name for path in source.iterdir() if path.is_file()]
    for name in _FOLDERS:
        if (source / name).is_dir():
            (target / name).mkdir()
            names += [f"{name}/{path.name}" for path in (source / name).iterdir() if path.is_file()]
    for name in names:
        hidden, left = name.startswith("."), name.endswith(WEIGHTS) or name in _OF_TRAINING
        if not hidden and not left and not (target / name).exists():
            shutil.copyfile(source / name, target / name)


def _says_the_same(before: Path, after: Path) -> bool:
    """Return whether two records differ in nothing but how the type of the weights is said."""
    old, new = read_json(before), read_json(after)
    said = old.get("dtype", old.get("torch_dtype", new["dtype"]))
    same = {name: value for name, value in old.items() if name not in ("dtype", "torch_dtype")}
    written = {name: value for name, value in new.items() if name != "dtype"}
    same.setdefault("architectures", written["architectures"])
    return said == new["dtype"] and json.dumps(same, sort_keys=True) == json.dumps(
        written, sort_keys=True
    )


def check_place(out: str | None) -> None:
    """Raise ValueError where the run's folder holds a model that no run has left there."""
    if out is None or not (Path(out) / MODEL).exists():
        return
    # A run writes its results before its model.
    if not all((Path(out) / name).exists() for name in ("config.json", "results.json")):
        rule = f"it holds a folder `{MODEL}`, where the trained model would go"
        raise refuse("out", out, rule, "give another --out")
