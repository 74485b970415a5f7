"""Tokenizers from folders, and folders that hold none."""

import json
import sys

import pytest

from ctrl_jax.data import Tokenizer, load_tokenizer
from tests.oracles.small_tokenizers import KINDS, build

TEXT = "What color is the sky?\n Blue é"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_loaded(kind, tmp_path):
    pytest.importorskip("transformers")
    saved = build(kind)
    saved.save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    for marks in (True, False):
        ids = found([TEXT], add_special_tokens=marks)["input_ids"]
        assert ids == saved([TEXT], add_special_tokens=marks)["input_ids"]
    ends = (found.bos_token_id, found.eos_token_id, found.chat_template)
    assert ends == (saved.bos_token_id, saved.eos_token_id, saved.chat_template)
    assert isinstance(found, Tokenizer)


def test_a_name_is_no_folder_and_nothing_is_downloaded():
    with pytest.raises(ValueError, match="received 'gpt2'; there is no such folder"):
        load_tokenizer("gpt2")


def test_without_transformers_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"not installed; run pip install 'ctrl_jax\[language\]'"):
        load_tokenizer(tmp_path)


def check_refused(folder, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_folders_without_a_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    check_refused(tmp_path, "it holds nothing; transformers reads no tokenizer")


@pytest.mark.parametrize("model", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"])
def test_a_model_without_its_tokenizer(model, tmp_path):
    """Of some kinds transformers makes a tokenizer without words: every text would be empty."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    reason = "(reads no tokenizer|the tokenizer has no vocabulary)"
    check_refused(tmp_path, f"it holds config.json; .*{reason}.*save_pretrained")


def test_damaged_files(tmp_path):
    pytest.importorskip("transformers")
    build("llama").save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = tmp_path / name
        whole = file.read_text()
        file.write_text(whole[: len(whole) // 2])
        check_refused(tmp_path, "reads no tokenizer from it")
        file.write_text(whole)
    assert load_tokenizer(tmp_path).bos_token == "<s>"


def test_code_of_the_folder_is_not_executed(tmp_path):
    pytest.importorskip("transformers")
    build("gpt2").save_pretrained(tmp_path)
    trap = tmp_path / "executed"
    (tmp_path / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        f"open({str(trap)!r}, 'w').close()\n"
        "class Own(PreTrainedTokenizerFast): pass\n"
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    check_refused(tmp_path, "reads no tokenizer from it")
    assert not trap.exists()
