"""The three texts of a preference record: the prompt, and the prompt followed by either answer.

Strings are joined as they are. Conversations are rendered by the chat template, the prompt with
the beginning of the assistant's turn. What a template writes after the last message is found by
rendering a mark in its place; blanks at its end (a line feed after the end-of-turn token) are never
generated, and are cut off. What is left of it ends the answer; where nothing is left, the template
does not close a turn, and the answer is open: it needs the tokenizer's EOS.

A template is a program of somebody else's. It may read the clock: it is shown a date that is given,
so that the same data are the same tokens tomorrow. It may leave out what messages say: it is looked
for in the text, and told of. It may never end: each record has limits of time and length.
"""

import contextlib
import datetime
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ctrl_jax._checks import refuse
from ctrl_jax.data.preferences.time_limit import TooLongError, time_limit

MARK = "0f3c9a517e"
CLOCK = "strftime_now"  # what transformers calls it
DATE = "2024-07-26"  # what Llama's templates take where there is no clock
LONGEST = 2**24  # characters of a text
SECONDS = 10.0  # for the texts of a record
STRIPPED = "the chat template strips blanks off a message"
LACKS = (
    "the chat template leaves out a part of what a message says (of <think> … </think>, many do), "
    "and it is not trained on"
)


class Texts(NamedTuple):
    """Texts of a record: `prompt`, and it followed by `chosen` and by `rejected`."""

    prompt: str
    chosen: str
    rejected: str


def plain_texts(record: Any) -> Texts:
    """Return the texts of a record of strings."""
    return Texts(record.prompt, record.prompt + record.chosen, record.prompt + record.rejected)


class ChatTemplate:
    """Conversations to strings, by a tokenizer's chat template or another one.

    Args:
        tokenizer: has `apply_chat_template`.
        template: another template than the tokenizer's own, in Jinja; None for its own.
        example: a record, from which it is learned how the template ends a turn.
        date: what the template sees where it reads the clock, in ISO's format.

    Raises:
        ValueError: the tokenizer has no chat template, it refuses the example, renders it
            differently twice, or does not end.
    """

    def __init__(self, tokenizer: Any, template: str | None, example: Any, date: str = DATE):
        own = getattr(tokenizer, "chat_template", "unknown")
        if not hasattr(tokenizer, "apply_chat_template") or (template is None and not own):
            found = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            lacking = (
                "chat template"
                if hasattr(tokenizer, "apply_chat_template")
                else ("apply_chat_template")
            )
            rule = f"it has no {lacking}, and the records are conversations"
            raise refuse("tokenizer", found, rule, "give chat_template, or records of strings")
        self.tokenizer, self.template, self.date = tokenizer, template, date
        written = own.get("default") if isinstance(own, dict) else own
        written = str(written if template is None else template)
        self.reads_clock = CLOCK in written
        if self.reads_clock:
            self.template = stopped_clock(datetime.datetime.fromisoformat(date)) + written
        name = "tokenizer: chat_template" if template is None else "chat_template"
        _check_arithmetic(name, written)
        *before, last = [*example.prompt, *example.chosen]
        conversation = [*before, {**last, "content": MARK}]
        marked, again = self._rendered(example.place, *[(conversation, False)] * 2)
        if marked != again:
            rule = "it renders one conversation differently each time"
            raise refuse(name, f"{marked[:40]}…", rule, "give another chat_template")
        if MARK not in marked:
            rule = "it leaves out what the assistant says"
            raise refuse(name, f"{marked[:40]}…", rule, "give another chat_template")
        self._tail = marked.rpartition(MARK)[2]

    @property
    def closing(self) -> str:
        """What ends the assistant's turn; nothing where the template does not end it."""
        return self._tail.strip()

    def texts(self, record: Any) -> Texts:
        """Return the texts of a record of conversations."""
        chosen, rejected = [*record.prompt, *record.chosen], [*record.prompt, *record.rejected]
        asked = ((record.prompt, True), (chosen, False), (rejected, False))
        prompt, *answers = self._rendered(record.place, *asked)
        return Texts(prompt, *map(self._ended, answers))

    def _ended(self, text: str) -> str:
        if not text.endswith(self._tail):
            return text
        return text.removesuffix(self._tail) + self._tail.rstrip()

    def _rendered(self, place: str, *conversations: tuple[list[Any], bool]) -> list[str]:
        """Texts of conversations, each with the beginning of a turn of the assistant or without."""
        current, texts = conversations[0][0], []
        try:
            with time_limit(SECONDS):
                for current, begin in conversations:
                    texts.append(self._render(current, begin))
                    if len(texts[-1]) > LONGEST:
                        raise ValueError(f"it writes {len(texts[-1])} characters of it")
        except Exception as error:  # templates raise what they like
            raise self._refused(error, current, place) from error
        return texts

    def _render(self, conversation: list[Any], begin: bool) -> str:
        return self.tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=begin,
            chat_template=self.template,
        )

    def _refused(self, error: Exception, conversation: Any, place: str) -> ValueError:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError):
            repair = "run pip install 'ctrl_jax[language]'"
            return refuse("chat_template", reason, "a package is missing for it", repair)
        if type(error).__name__ == "TemplateSyntaxError":
            rule = f"it is no template in Jinja ({reason})"
            return refuse("chat_template", str(self.template)[:40], rule, "repair it")
        roles = [message["role"] for message in conversation]
        if isinstance(error, TooLongError):
            rule = f"the chat template is not done with it after {SECONDS:g} seconds"
        else:
            rule = f"the chat template refuses it ({reason})"
        repair = "repair the record or give another chat_template"
        return refuse(f"{place}: roles", roles, rule, repair)


def _check_arithmetic(name: str, template: str) -> None:
    """Refuse powers and numbers so large that one operation of compiled code does not end."""
    try:
        import jinja2
    except ImportError:
        return  # rendering says so
    tokens = []
    with contextlib.suppress(jinja2.TemplateSyntaxError):  # that too
        found = jinja2.Environment().lex(template)
        tokens = [(kind, value) for _, kind, value in found if kind != "whitespace"]
    powers = [after for (_, value), after in itertools.pairwise(tokens) if value == "**"]
    numbers = [int(value.replace("_", ""), 0) for kind, value in tokens if kind == "integer"]
    small = all(kind == "integer" and len(value) == 1 for kind, value in powers)
    if len(powers) > 1 or not small or max(numbers, default=0) > 10**9:
        rule = "it has powers or numbers of which the arithmetic may not end"
        raise refuse(name, f"{template[:40]}…", rule, "give another chat_template")


def stopped_clock(moment: datetime.datetime) -> str:
    """Return what, put before a template, hides the clock that transformers shows to templates.

    Args:
        moment: what the clock shows.
    """
    letters = "aAbBcdDeFfGHIjmMpRSTuUVwWxXyYzZ"
    codes = [f"%{flag}{letter}" for letter in letters for flag in ("", "-")]
    shown = {code: moment.strftime(code) for code in codes}
    filters = "".join(f"|replace({code!r}, {text!r})" for code, text in shown.items())
    # A line feed after a block is dropped.
    shown_text = f"{{{{ format{filters}|replace('%%', '%') }}}}"
    return f"{{% macro {CLOCK}(format) %}}{shown_text}{{% endmacro %}}\n"


def lost_content(record: Any, texts: Texts) -> list[str]:
    """Return notes about what messages say and rendered texts do not.

    Args:
        record: of conversations.
        texts: the same, rendered.
    """
    notes = set()
    parts: Sequence[tuple[Any, str]] = (
        (record.prompt, texts.prompt),
        (record.chosen, texts.chosen),
        (record.rejected, texts.rejected),
    )
    for messages, text in parts:
        for message in messages:
            if message["content"] not in text:
                notes.add(STRIPPED if message["content"].strip() in text else LACKS)
    return sorted(notes)
