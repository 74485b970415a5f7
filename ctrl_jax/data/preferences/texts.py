"""The three texts of a preference record: the prompt, and the prompt followed by either answer.

Strings are joined as they are. Conversations are rendered by the chat template, the prompt with
the beginning of the assistant's turn. What a template writes after the last message is found by
rendering a mark in its place; blanks at its end (a line feed after the end-of-turn token) are never
generated, and are cut off. What is left of it ends the answer; where nothing is left, the template
does not close a turn, and the answer is open: it needs the tokenizer's EOS.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ctrl_jax._checks import refuse

MARK = "0f3c9a517e"


class Texts(NamedTuple):
    """Texts of some records, in their order: `prompt`, and it followed by `chosen`, `rejected`."""

    prompt: list[str]
    chosen: list[str]
    rejected: list[str]


def plain_texts(records: Sequence[Any]) -> Texts:
    """Return the texts of records that are strings."""
    return Texts(
        [record.prompt for record in records],
        [record.prompt + record.chosen for record in records],
        [record.prompt + record.rejected for record in records],
    )


class ChatTemplate:
    """Conversations to strings, by a tokenizer's chat template or another one.

    Args:
        tokenizer: has `apply_chat_template`.
        template: another template than the tokenizer's own, in Jinja; None for its own.
        example: a record, from which it is learned how the template ends a turn.

    Raises:
        ValueError: the tokenizer has no chat template, or it refuses the example.
    """

    def __init__(self, tokenizer: Any, template: str | None, example: Any):
        if not hasattr(tokenizer, "apply_chat_template"):
            rule = "it has no apply_chat_template, and the records are conversations"
            raise refuse("tokenizer", type(tokenizer).__name__, rule, "give strings")
        self.tokenizer, self.template = tokenizer, template
        *before, last = [*example.prompt, *example.chosen]
        marked = self._render([*before, {**last, "content": MARK}], example.place)
        if MARK not in marked:
            rule = "the chat template leaves out what the assistant says"
            raise refuse(example.place, marked, rule, "give another chat_template")
        self._tail = marked.rpartition(MARK)[2]

    @property
    def closes(self) -> bool:
        """Whether the template itself ends the assistant's turn."""
        return bool(self._tail.strip())

    def texts(self, records: Sequence[Any]) -> Texts:
        """Return the texts of records that are conversations."""
        return Texts(
            [self._render(r.prompt, r.place, add_generation_prompt=True) for r in records],
            [self._ended([*r.prompt, *r.chosen], r.place) for r in records],
            [self._ended([*r.prompt, *r.rejected], r.place) for r in records],
        )

    def _ended(self, conversation: list[Any], place: str) -> str:
        text = self._render(conversation, place)
        if not text.endswith(self._tail):
            return text
        return text.removesuffix(self._tail) + self._tail.rstrip()

    def _render(self, conversation: Any, place: str, *, add_generation_prompt: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                conversation,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self.template,
            )
        except Exception as error:  # templates raise what they like
            roles = [message["role"] for message in conversation]
            rule = f"the chat template refuses it ({' '.join(str(error).split())})"
            repair = "repair the record or give another chat_template"
            raise refuse(f"{place}: roles", roles, rule, repair) from error
