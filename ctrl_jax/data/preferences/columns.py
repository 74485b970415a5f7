"""Column names of public collections of preferences, brought to prompt, chosen and rejected.

ultrafeedback_binarized   chosen and rejected are whole conversations, prompt repeats their
                          question; scores and messages beside them are not read
HH-RLHF                   chosen and rejected are transcripts (`turns`)
dpo-mix (Argilla)         as ultrafeedback_binarized without a prompt; ratings are not read
SHP                       history, human_ref_A, human_ref_B and labels, 1 where A is preferred;
                          joined as HH-RLHF's transcripts, as in the code of arXiv 2305.18290
"""

from collections.abc import Mapping
from typing import Any

from ctrl_jax._checks import refuse

# Beside prompt and answers; not one of them says which answer is the better one.
BOOKKEEPING = frozenset(
    # One text is easier to read and to extend than quotes around each.
    """prompt_id messages source dataset id idx __index_level_0__
    score_chosen score_rejected chosen_score rejected_score
    chosen_rating rejected_rating chosen-rating rejected-rating rating_chosen rating_rejected
    chosen_model rejected_model chosen-model rejected-model
    post_id domain upvote_ratio c_root_id_A c_root_id_B created_at_utc_A created_at_utc_B
    score_A score_B seconds_difference score_ratio""".split()  # noqa: SIM905
)
COMPARED = ("history", "human_ref_A", "human_ref_B", "labels")


def standard_columns(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a record's fields by our names, bookkeeping left in them.

    Raises:
        ValueError: the answers are told apart by a label that is neither 0 nor 1.
    """
    if not fields.keys() >= set(COMPARED):
        return dict(fields)
    history, first, second, label = (fields[key] for key in COMPARED)
    if isinstance(label, bool) or label not in (0, 1):
        rule = "it says which answer is preferred: 1 is A, 0 is B"
        raise refuse(f"{place}: labels", label, rule, "mend it or remove the record")
    for key in COMPARED[:3]:
        if not isinstance(fields[key], str):
            kind = type(fields[key]).__name__
            raise refuse(f"{place}: {key}", kind, "it must be a string", "write plain text")
    better, worse = (first, second) if label else (second, first)
    others = {key: value for key, value in fields.items() if key not in COMPARED}
    return others | {
        "prompt": f"\n\nHuman: {history}\n\nAssistant:",
        "chosen": f" {better}" if better.strip() else "",
        "rejected": f" {worse}" if worse.strip() else "",
    }
