"""Tokenizers: what is asked of one, and those of Hugging Face folders.

Whatever maps a list of texts to lists of ids is a tokenizer here, for example the bytes::

    class Bytes:
        bos_token_id, eos_token_id = None, 256

        def __call__(self, texts, /, *, add_special_tokens=True):
            return {"input_ids": [list(text.encode()) for text in texts]}
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ctrl_jax._checks import refuse


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to token ids, as the tokenizers of transformers do it.

    It has `bos_token_id` and `eos_token_id`, the ids that begin and end a text, or None. For
    conversations it has besides
    `apply_chat_template(conversation, *, tokenize, add_generation_prompt, chat_template)`, which
    returns a string for `tokenize=False`.
    """

    # Since Python 3.12 isinstance finds no attribute that __getattr__ makes, like transformers'.
    if TYPE_CHECKING:

        @property
        def bos_token_id(self) -> int | None: ...

        @property
        def eos_token_id(self) -> int | None: ...

    def __call__(self, texts: list[str], /, *, add_special_tokens: bool) -> Mapping[str, Any]:
        """Return `input_ids`, one list of ids for each text.

        Args:
            texts: what to tokenize.
            add_special_tokens: whether the ids that begin or end a text by this tokenizer's
                convention are added; ids that stand in a text as words are read in both cases.
        """
        ...


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the tokenizer of a folder, read by transformers; nothing is downloaded or executed.

    Args:
        folder: holds what transformers saves of a tokenizer, most often `tokenizer.json` and
            `tokenizer_config.json`.

    Raises:
        ValueError: transformers is not installed, there is no such folder, or it holds no
            tokenizer, a damaged one or one that needs code of its own.
    """
    folder = Path(folder)
    if not folder.is_dir():
        rule = "there is no such folder, and nothing is downloaded"
        raise refuse("folder", str(folder), rule, "give a local folder")
    try:
        import transformers
    except ImportError as error:
        repair = "run pip install 'ctrl_jax[language]'"
        raise refuse("folder", str(folder), "transformers is not installed", repair) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever its readers raise about damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise _unread(folder, f"transformers reads no tokenizer from it ({reason})") from error
    # Of a config.json alone some versions make a tokenizer that drops every word.
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise _unread(folder, "the tokenizer has no vocabulary")
    return tokenizer


def _unread(folder: Path, rule: str) -> ValueError:
    names = sorted(path.name for path in folder.iterdir())
    found = f"it holds {', '.join(names[:8]) or 'nothing'}; {rule}"
    repair = "save the tokenizer there with its save_pretrained"
    return refuse("folder", str(folder), found, repair)
