"""Plans the composed training images: data/mixture.npz has what is where in each, and its captions.

    python recipes/mixture.py                                            (after bank.py)
    python recipes/mixture.py --scale 0.25 --centred 0.15 --seed 2 --out data/mixture-wide.npz    (for a control)

A plan is made without a pixel; `compositing.Compositor` draws it, fast enough on a GPU to be drawn when needed. Kinds:

- "core", "more", "rest": one drawing of a name of that rank (bank.py) on a plain background,
- "counts": two to four times the same drawing, "three red apples",
- "places": a drawing on a table, on grass, in space and so on,
- "recolored": a drawing in another color, which its captions say,
- "pairs": two drawings side by side or one above the other. Which words mean which of them is kept, for grounding.py.

About half of the captions name the style: a prompt without one must work too, and draws any. Backgrounds other
than white are always named.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from transformers import CLIPTokenizer

from backdrops import PLACES
from common import DATA
from samples import CAPTIONS, tokenize
from tether.datasets.sided import names_a_side
from tether.datasets.synthetic.emoji import BACKGROUNDS
from words import color_word, is_plural, mark, plain_words, plural, unmark, with_article, words_of

LAYERS = 4
"""Drawings in an image at most."""
IMAGES = {
    "core": 110_000,
    "more": 30_000,
    "rest": 14_000,
    "counts": 22_000,
    "places": 26_000,
    "recolored": 30_000,
    "pairs": 36_000,
}
"""Images of each kind; "pairs" is last, beside the scenes, which are grounded too."""
STYLES = {"3d": 0.34, "flat": 0.19, "simple": 0.14, "cartoon": 0.14, "soft": 0.1, "classic": 0.09}
"""How often a drawing is of which style, where a name has all."""
SEEDS = {"recolored": "recoloured"}
"""What seeds the random numbers of a kind, if not its name: plans stay those of the shipped base."""
TOKENIZER = Path("src/tether/weights/base/tokenizer")
STANDING = {"dog", "cat", "black cat", "horse", "cow", "pig", "sheep", "goat", "deer", "elephant", "rooster", "duck"}
"""Names of animals that stand on their feet in all their drawings."""
CUTE = ("cute ", "nice ", "pretty ", "simple ", "beautiful ", "lovely ", "funny ", "plain ")
FRAMES = ("a picture of {}", "a drawing of {}", "an image of {}", "a photo of {}", "an icon of {}", "{} alone")
NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
SMALL, LARGE = ("small", "little", "tiny"), ("big", "large", "huge")


@dataclass
class Layer:
    """A drawing's number in the bank, its middle and width in shares of the image's side, whether it is mirrored."""

    drawing: int
    x: float
    y: float
    scale: float
    flip: bool = False


@dataclass
class Plan:
    """One image: the number of its background, its layers from the back to the front, and its captions, marked."""

    background: int
    layers: list[Layer]
    captions: list[str]


class Planner:
    """Makes random plans of each kind from the bank's entries."""

    def __init__(self, entries: list[dict], horizons: np.ndarray, places: list[str], centred: float) -> None:
        self.entries, self.horizons, self.centred = entries, horizons, centred
        self.backdrops: dict[str, list[int]] = {}
        for number, place in enumerate(places):
            self.backdrops.setdefault(place, []).append(number)
        # For each rank, and whether recolored: name -> style -> drawings.
        self.drawings: dict[tuple[str, bool], dict[str, dict[str, list[int]]]] = {}
        for number, entry in enumerate(entries):
            names = self.drawings.setdefault((entry["rank"], entry["recolored"]), {})
            names.setdefault(entry["name"], {}).setdefault(entry["style"].split()[0], []).append(number)
        self.names = {key: list(names) for key, names in self.drawings.items()}

    def choose(self, rng: Random, rank: str, recolored: bool = False, style: str | None = None) -> int:
        """A random drawing: first a name, then one of its styles, or `style` where the name has it."""
        names = self.drawings[rank, recolored]
        styles = names[rng.choice(self.names[rank, recolored])]
        if style not in styles:
            style = rng.choices(list(styles), [STYLES[name] for name in styles])[0]
        return rng.choice(styles[style])

    def noun(self, rng: Random, number: int, plain: bool = False) -> str:
        """A word for a drawing, mostly the most common one; with `plain` one that names no color."""
        entry = self.entries[number]
        words = words_of(entry["name"], tuple(entry["synonyms"]))
        words = plain_words(entry["name"]) or words if plain else words
        return words[0] if rng.random() < 0.55 else rng.choice(words)

    def described(self, rng: Random, number: int, colored: float, before: str = "") -> str:
        """A noun, with its color where it was changed, and in a share `colored` of other drawings of one color."""
        entry = self.entries[number]
        named = entry["recolored"] or (entry["color"] is not None and rng.random() < colored)
        if named and plain_words(entry["name"]):
            return f"{before}{color_word(rng, entry['color'])} {self.noun(rng, number, plain=True)}"
        return before + self.noun(rng, number)

    def background(self, rng: Random, numbers: list[int], white: float = 0.5) -> str:
        """White, or a named color that is none of the drawings'."""
        taken = {self.entries[number]["color"] for number in numbers}
        return rng.choice([name for name in BACKGROUNDS if name not in taken]) if rng.random() > white else "white"

    def flips(self, rng: Random, number: int, share: float) -> bool:
        """Whether to mirror a drawing; never where its name says a side."""
        return rng.random() < share and not names_a_side(self.entries[number]["name"])

    def single(self, rng: Random, rank: str, recolored: bool = False) -> Plan:
        """One drawing on a plain background, mostly in the middle."""
        number = self.choose(rng, rank, recolored)
        drawn, size = rng.random(), ""
        if drawn < self.centred:
            scale, slack, flip = rng.uniform(0.86, 0.95), 0.02, 0.25
        elif drawn < self.centred + 0.65 * (1 - self.centred):
            scale, flip = rng.uniform(0.6, 0.95), 0.5
            slack = (1 - scale) / 2
        elif drawn < self.centred + 0.88 * (1 - self.centred):
            scale, slack, flip, size = rng.uniform(0.32, 0.48), 0.18, 0.4, rng.choice(SMALL) + " "
        else:
            scale, slack, flip, size = rng.uniform(0.97, 1.04), 0.01, 0.25, rng.choice(LARGE) + " "
        shift = rng.uniform(-slack, slack), rng.uniform(-slack, slack)
        layer = Layer(number, 0.5 + shift[0], 0.5 + shift[1], scale, self.flips(rng, number, flip))
        background = self.background(rng, [number])
        captions = []
        for _ in range(CAPTIONS):
            before = size if rng.random() < 0.75 else rng.choice(CUTE) if rng.random() < 0.06 else ""
            noun = self.described(rng, number, 0.2, before)
            if self.entries[number]["name"] in STANDING and rng.random() < 0.12:
                noun += " standing"
            captions.append(self.caption(rng, with_article(noun), noun, number, background))
        return Plan(self.backdrops[background][0], [layer], captions)

    def several(self, rng: Random) -> Plan:
        """Two to four times the same drawing in a row or a square."""
        while True:
            number = self.choose(rng, "core", rng.random() < 0.25)
            words = plain_words(self.entries[number]["name"])
            nouns = [many for word in words if (many := plural(word))]
            if nouns:
                break
        count = rng.choices((2, 3, 4), (0.5, 0.33, 0.17))[0]
        row = count == 2 or (count == 3 and rng.random() < 0.5)
        if row:
            wide = 1 / count
            places = [((k + 0.5) * wide, 0.5 + rng.uniform(-0.03, 0.03)) for k in range(count)]
        else:
            wide, places = 0.5, [(0.25, 0.26), (0.75, 0.26), (0.25, 0.74), (0.75, 0.74)]
            places = [(0.5, 0.26), *places[2:]] if count == 3 else places
        scale, flip = wide * rng.uniform(0.92, 1.0), self.flips(rng, number, 0.2)
        layers = [Layer(number, x, y, scale, flip) for x, y in places]
        background, entry, captions = self.background(rng, [number]), self.entries[number], []
        for _ in range(CAPTIONS):
            noun = nouns[0] if rng.random() < 0.7 else rng.choice(nouns)
            colored = entry["recolored"] or (entry["color"] is not None and rng.random() < 0.2)
            noun = f"{color_word(rng, entry['color'])} {noun}" if colored else noun
            how_many = NUMBERS[count][rng.random() < 0.12]
            if count == 2 and rng.random() < 0.12:
                how_many = "a pair of"
            captions.append(self.caption(rng, f"{how_many} {noun}", f"{how_many} {noun}", number, background))
        return Plan(self.backdrops[background][0], layers, captions)

    def placed(self, rng: Random) -> Plan:
        """A drawing on a table, on grass, in the sky and so on."""
        number = self.choose(rng, "core", rng.random() < 0.3)
        place = rng.choice(list(PLACES))
        backdrop = rng.choice(self.backdrops[place])
        scale, box = rng.uniform(0.5, 0.78), self.entries[number]["box"]
        x = 0.5 + rng.uniform(-0.5, 0.5) * (1 - scale) * 0.7
        if self.horizons[backdrop]:  # its feet stand on the ground
            feet = rng.uniform(self.horizons[backdrop] + 0.1, min(0.94, self.horizons[backdrop] + 0.24))
            y = feet - scale * (box[3] - 0.5)
        else:
            y = 0.5 + rng.uniform(-0.5, 0.5) * (1 - scale) * 0.7
        layer = Layer(number, x, y, scale, self.flips(rng, number, 0.4))
        captions = []
        for _ in range(CAPTIONS):
            noun = self.described(rng, number, 0.25)
            captions.append(self.caption(rng, f"{with_article(noun)} {rng.choice(PLACES[place][1])}", "", number, ""))
        return Plan(backdrop, [layer], captions)

    def pair(self, rng: Random) -> Plan:
        """Two different drawings of one style, beside or above each other."""
        style = rng.choices(list(STYLES), list(STYLES.values()))[0]
        while True:
            numbers = [self.choose(rng, "core", rng.random() < 0.4, style) for _ in range(2)]
            first, second = ({w.split()[-1] for w in words_of(self.entries[n]["name"])} for n in numbers)
            styles = {self.entries[n]["style"] for n in numbers}
            if not first & second and len(styles) == 1:
                break
        scales, above = [rng.uniform(0.44, 0.52) for _ in numbers], rng.random() < 0.25
        along, across = (0.25, 0.75), (0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05))
        middles = [(across[k], along[k]) if above else (along[k], across[k]) for k in range(2)]
        layers = [
            Layer(number, *middle, scale, self.flips(rng, number, 0.3))
            for number, middle, scale in zip(numbers, middles, scales, strict=True)
        ]
        background = self.background(rng, numbers)
        captions = []
        for _ in range(CAPTIONS):
            a, b = (mark(with_article(self.described(rng, n, 0.35)), 2 + k) for k, n in enumerate(numbers))
            sides = (
                (f"{a} above {b}", f"{b} below {a}", f"{a} over {b}", f"{b} under {a}")
                if above
                else (f"{a} left of {b}", f"{b} right of {a}", f"{a} to the left of {b}", f"{b} to the right of {a}")
            )
            free = (f"{a} and {b}", f"{a} and {b}", f"{b} and {a}", f"{a} next to {b}", f"{a} beside {b}")
            words = rng.choice(free if (above and rng.random() < 0.4) or rng.random() < 0.6 else sides)
            if above and ("next" in words or "beside" in words):
                words = f"{a} and {b}"
            captions.append(self.caption(rng, words, "", numbers[0], background))
        return Plan(self.backdrops[background][0], layers, captions)

    def caption(self, rng: Random, subject: str, noun: str, number: int, background: str) -> str:
        """A subject in one of a few templates, with the style and the background or without.

        Args:
            subject: the thing with its article, "a red apple".
            noun: the thing without, where captions may be so short; else empty.
            number: a drawing, for its style.
            background: a plain one's color; empty where the subject says where it is.
        """
        style, words = self.entries[number]["style"], subject
        drawn = rng.random()
        if noun and drawn < 0.2:
            words = noun
        elif noun and drawn < 0.32 and not is_plural(noun):
            words = rng.choice(FRAMES).format(subject)
        elif noun and drawn < 0.35 and with_article(noun) != noun:
            words = f"one {noun}"
        if rng.random() < 0.5:
            words = f"{style} of {words}" if rng.random() < 0.15 else f"{words}, {style}"
        if background and (background != "white" or rng.random() < 0.2):
            named = f"{background} background"
            words += ", " + mark(named, 0) if rng.random() < 0.6 else " on " + mark(with_article(named), 0)
        return words


MAKERS: dict[str, Callable[[Planner, Random], Plan]] = {
    "core": lambda planner, rng: planner.single(rng, "core"),
    "more": lambda planner, rng: planner.single(rng, "more"),
    "rest": lambda planner, rng: planner.single(rng, "rest"),
    "counts": Planner.several,
    "places": Planner.placed,
    "recolored": lambda planner, rng: planner.single(rng, "more" if rng.random() < 0.1 else "core", recolored=True),
    "pairs": Planner.pair,
}


Job = tuple[str, int, int]
"""A kind, a number of plans, and what seeds them."""


def make_plans(job: Job, planner: Planner) -> list[Plan]:
    """The plans of a job."""
    kind, count, seed = job
    rng = Random(f"{SEEDS.get(kind, kind)} {seed}")
    return [MAKERS[kind](planner, rng) for _ in range(count)]


def planned(job: Job, planner: Planner, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What the file has of the plans of a job; see `main`."""
    plans, count = make_plans(job, planner), job[1]
    layers = np.zeros((count, LAYERS, 5), np.float32)
    layers[..., 0] = -1
    for row, plan in enumerate(plans):
        for k, layer in enumerate(plan.layers):
            layers[row, k] = layer.drawing, layer.x, layer.y, layer.scale, layer.flip
    captions = [[unmark(caption) for caption in plan.captions] for plan in plans]
    tokens, words = tokenize([caption for row in captions for caption in row], tokenizer)
    return {
        "backgrounds": np.array([plan.background for plan in plans], np.int16),
        "layers": layers,
        "tokens": tokens.reshape(count, CAPTIONS, -1),
        "words": words.reshape(count, CAPTIONS, -1),
        "captions": [[text for text, _ in row] for row in captions],
    }


def read_planner(data: Path, centred: float) -> Planner:
    """A planner of the drawings and backdrops in data/bank.npz."""
    with np.load(data / "bank.npz") as file:
        entries, places = json.loads(str(file["entries"])), json.loads(str(file["places"]))
        return Planner(entries, file["horizons"], places, centred)


def count_plans(scale: float) -> dict[str, int]:
    """How many plans of each kind there are at a scale; at least one."""
    return {kind: max(1, round(number * scale)) for kind, number in IMAGES.items()}


def jobs(counts: dict[str, int], seed: int) -> list[Job]:
    """The plans in parts of at most 1,000."""
    each = 1000
    return [
        (kind, min(each, number - k), seed * 10**6 + k)
        for kind, number in counts.items()
        for k in range(0, number, each)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=DATA / "mixture.npz")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images")
    parser.add_argument(
        "--centred",
        type=float,
        default=0.62,
        help="share of single drawings in the middle; where the words leave open what is where, the first steps of "
        "sampling draw the mean of all that it could be; a control has lines to go by",
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes below are parallel enough
    planner = read_planner(arguments.data, arguments.centred)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    counts = count_plans(arguments.scale)
    with Pool() as pool:
        make = partial(planned, planner=planner, tokenizer=tokenizer)
        parts = pool.map(make, jobs(counts, arguments.seed), chunksize=1)
    captions = [row for part in parts for row in part.pop("captions")]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    arrays |= {"captions": np.array(json.dumps(captions)), "counts": np.array(json.dumps(counts))}
    np.savez(arguments.out, **arrays)
    arguments.out.with_suffix(".txt").write_text("\n".join(" | ".join(row) for row in captions[::101]) + "\n")
    print(f"{arguments.out}: {len(captions)} plans, {counts}")


if __name__ == "__main__":
    main()
