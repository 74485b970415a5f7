"""Where the prompt ends that two texts share, if they have none of their own.

It ends where a turn does: after the last "Assistant:" of transcripts ("\\n\\nHuman: … \\n\\n
Assistant: …", HH-RLHF), or after another name of who answers, if it is the last name that the texts
share. Else it ends between two words, less one space, which belongs to the words that follow: never
within a word, of which the two answers would then be halves.
"""

import re

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
NAME = re.compile(r"(?:^|\s)(\w+)[ \t]*:(?=\s|$)")
ANSWERS = frozenset({"assistant", "answer", "a", "response", "bot", "ai", "output", "completion"})
# Scripts that do not divide words by spaces: Thai to Myanmar, Khmer, and Chinese to Yi.
CLOSE = "\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff"
WORD = re.compile(rf"[^\W{CLOSE}]+(?:['’.,-][^\W{CLOSE}]+)*")


def is_transcript(text: str) -> bool:
    """Return whether a text has the turns of Human and Assistant, as HH-RLHF writes them."""
    return text.startswith(HUMAN) and ASSISTANT in text


def prompt_end(chosen: str, rejected: str, shared: int) -> int:
    """Return how many characters of what two texts share are their prompt.

    Args:
        chosen: one text.
        rejected: the other.
        shared: how many characters both begin with.
    """
    if is_transcript(chosen) and is_transcript(rejected):
        found = chosen.rfind(ASSISTANT, 0, shared)
        return 0 if found < 0 else found + len(ASSISTANT)
    end = min(_word_start(text, shared) for text in (chosen, rejected))
    names = [*NAME.finditer(chosen, 0, end)]
    if names and names[-1][1].lower() in ANSWERS:
        before = chosen[: names[-1].start(1)].rstrip(" \t")
        if not before or before[-1] in "\n.?!#":
            return names[-1].end()
    return end - chosen[:end].endswith(" ")


def _word_start(text: str, place: int) -> int:
    """The beginning of the word that a place is within, or the place."""
    start = max(text.rfind(blank, 0, place) for blank in " \n\t") + 1
    within = (word for word in WORD.finditer(text, start) if word.end() > place)
    word = next(within, None)
    return word.start() if word and word.start() < place else place
