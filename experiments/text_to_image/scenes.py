"""Scenes of one to four things on a grid of 2 x 2 places, each with an exact caption.

The captions are of the six categories of GenEval (2310.11513): a single object, two objects,
counting, colors, position, color attribution. Some combinations of every category are set apart:
no generator is trained on them. All is a function of the seed.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ctrl_jax.data.prompts import Prompt
from experiments.text_to_image.things import CELL, COLORS, SIZES, Things, sprites

CATEGORIES = ("single", "two", "counting", "colors", "position", "attribution")
GRID = 2
SIDE = GRID * CELL
PLACES = GRID * GRID
NUMBERS = {2: "two", 3: "three", 4: "four"}
# The places of the first and the second thing, by rows.
RELATIONS = {
    "left of": ((0, 1), (2, 3)),
    "right of": ((1, 0), (3, 2)),
    "above": ((0, 2), (1, 3)),
    "below": ((2, 0), (3, 1)),
}
APART = {"two": 3, "counting": 3, "colors": 4, "position": 8, "attribution": 8}
"""One combination in so many is set apart; the few single objects are all shown."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a picture is asked to show.

    Args:
        caption: the words.
        category: one of `CATEGORIES`.
        things: their names, such as "cat" and "red heart".
        relation: of the first thing to the second; none where empty.
        seen: whether the generator is trained on it.
    """

    caption: str
    category: str
    things: tuple[str, ...]
    relation: str = ""
    seen: bool = True

    def record(self) -> dict[str, Any]:
        """Return its line of a file of prompts."""
        fields = {"category": self.category, "things": list(self.things)}
        fields |= {"relation": self.relation, "seen": self.seen}
        return {"prompt": self.caption, **fields}


def request_of(prompt: str, record: Mapping[str, Any]) -> Request:
    """Return the request of a prompt and what its record says beside it."""
    names = ("category", "relation", "seen")
    return Request(prompt, things=tuple(record["things"]), **{k: record[k] for k in names})


def of_prompt(prompt: Prompt) -> Request:
    """Return the request that a line of a file of prompts holds."""
    return request_of(prompt.text, prompt.fields)


def requests(things: Things, seed: int = 0) -> tuple[Request, ...]:
    """Return every request that there is, those set apart among them.

    Args:
        things: what there is to draw.
        seed: decides which are set apart.
    """
    found = []
    for number, category in enumerate(CATEGORIES):
        made = [Request(c, category, t, r) for c, t, r in _combinations(things, category)]
        if category in APART:
            order = np.random.default_rng([seed, number]).permutation(len(made))
            for i in order[: len(made) // APART[category]]:
                made[i] = dataclasses.replace(made[i], seen=False)
        found += made
    # Nor are a colored shape and a pair of objects that are set apart shown under other captions.
    apart = [{*r.things} for r in found if r.category in ("two", "colors") and not r.seen]
    hidden = (any(some <= {*r.things} for some in apart) for r in found)
    return tuple(
        dataclasses.replace(r, seen=False) if hide else r
        for r, hide in zip(found, hidden, strict=True)
    )


def _combinations(things: Things, category: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Captions, the names of things, and relations."""
    objects = things.objects
    colored = [f"{color} {shape}" for shape in things.shapes for color in COLORS]
    if category == "single":
        yield from ((_a(noun), (noun,), "") for noun in objects)
    elif category == "two":
        pairs = itertools.combinations(objects, 2)
        yield from ((f"{_a(one)} and {_a(two)}", (one, two), "") for one, two in pairs)
    elif category == "counting":
        for noun, number in itertools.product(objects, NUMBERS):
            yield f"{NUMBERS[number]} {_plural(noun)}", (noun,) * number, ""
    elif category == "colors":
        yield from ((_a(name), (name,), "") for name in colored)
    elif category == "position":
        for (one, two), relation in itertools.product(
            itertools.permutations(objects, 2), RELATIONS
        ):
            yield f"{_a(one)} {relation} {_a(two)}", (one, two), relation
    else:
        for one, two in itertools.combinations(colored, 2):
            if one.split()[0] != two.split()[0] and one.split()[1] != two.split()[1]:
                yield f"{_a(one)} and {_a(two)}", (one, two), ""


def draw(
    generator: np.random.Generator, asked: Sequence[Request], things: Things
) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of each request, (requests, SIDE, SIDE, 3) in bytes, and what stands where.

    Args:
        generator: decides on places and sizes.
        asked: the requests.
        things: what there is to draw.

    Returns:
        The pictures; and for each place, by rows, the number of its thing among
        ``things.names``, or ``len(things.names)`` where it is empty.
    """
    names = things.names
    what = np.full((len(asked), PLACES), len(names))
    for row, request in zip(what, asked, strict=True):
        row[_places(generator, request)] = [names.index(name) for name in request.things]
    return rendered(generator, what, things), what


def rendered(generator: np.random.Generator, what: np.ndarray, things: Things) -> np.ndarray:
    """Return pictures of what stands at each place, in bytes, every thing in a size of its own.

    Args:
        generator: decides on sizes.
        what: numbers of things (batch, PLACES), one more than the last for an empty place.
        things: what there is to draw.
    """
    parts = sprites(things.kind)
    cells = np.concatenate([parts, np.full_like(parts[:1], 255)])
    return assembled(cells[what, generator.integers(len(SIZES), size=what.shape)])


def assembled(cells: np.ndarray) -> np.ndarray:
    """Return pictures (batch, SIDE, SIDE, 3) of what their places hold, (batch, PLACES, ...)."""
    grid = cells.reshape(-1, GRID, GRID, CELL, CELL, 3)
    return grid.swapaxes(2, 3).reshape(-1, SIDE, SIDE, 3)


def _places(generator: np.random.Generator, request: Request) -> list[int]:
    if request.relation:
        either = RELATIONS[request.relation]
        return [*either[generator.integers(len(either))]]
    return [*generator.permutation(PLACES)[: len(request.things)]]


def draw_requests(
    generator: np.random.Generator, found: Sequence[Request], number: int
) -> list[int]:
    """Return the places among requests of a number of draws, every category as often."""
    by_category = [
        [i for i, request in enumerate(found) if request.category == category]
        for category in CATEGORIES
    ]
    present = [group for group in by_category if group]
    drawn = (present[k] for k in generator.integers(len(present), size=number))
    return [group[generator.integers(len(group))] for group in drawn]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "ss")) else f"{noun}s"
