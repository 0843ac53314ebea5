"""How well controls are followed: held-out cases, drawn in several arms and measured.

    cases = held_out_cases([open_held_out("scenes", 128)], ["depth"], (128, 128), 100)
    arms = [Arm("strength 0"), Arm("depth", (Steering("depth", "depth"),))]
    evaluation = evaluate(cases, arms, Artist(Session(), Request(prompt=""), Path("out")), ["depth"])
    evaluation.score("depth", "depth/rmse")            # Score(value, low, high)

Beside the arms there are two references that nothing draws: "source", the held-out pictures themselves, whose score is
the error of the measure (of the judge, say), and "autoencoder", the same after the base's autoencoder, which no picture
of this base can pass by much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tether.base import Base
from tether.errors import TetherError
from tether.evaluation.cases import Case
from tether.evaluation.drawing import Arm, Artist, seeds_of
from tether.evaluation.found import finder, measures_of, numbers_of
from tether.evaluation.intervals import Score, ratio_of, score_of, tabulate
from tether.evaluation.judge import LAYOUT, load_judge
from tether.evaluation.pictures import DIVERSITY, SHARPNESS, diversity, sharpness
from tether.evaluation.prompts import PROMPT, agreement, exchanged
from tether.images import from_pixels, open_image, to_pixels
from tether.kinds.measures import Measure, Numbers

__all__ = ["AUTOENCODER", "EXCHANGED", "SOURCE", "STRENGTH_0", "Evaluation", "evaluate"]

STRENGTH_0, SOURCE, AUTOENCODER = "strength 0", "source", "autoencoder"
EXCHANGED = "source, other colors asked for"
"""The sources against prompts whose colors were exchanged: what prompt agreement says where nothing agrees."""

Rows = list[list[Numbers]]
"""Numbers of I pictures for each of C cases."""
WordScore = Callable[[Image.Image, str], Numbers]
"""(picture, prompt) -> numbers."""


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        cases: the held-out cases.
        measures: by name, "canny/f1_2px" for those of a kind, "prompt", "diversity", "sharpness".
        numbers: of each arm and reference, by measure, of each case and picture.
        pictures: the files of each arm's pictures, for each case.
    """

    cases: Sequence[Case]
    measures: dict[str, Measure] = field(default_factory=dict)
    numbers: dict[str, dict[str, Rows]] = field(default_factory=dict)
    pictures: dict[str, list[list[Path]]] = field(default_factory=dict)

    def add(self, arm: str, measure: Measure, name: str, case: int, numbers: Sequence[Numbers]) -> None:
        """Adds the numbers of a case's pictures."""
        self.measures.setdefault(name, measure)
        rows = self.numbers.setdefault(arm, {}).setdefault(name, [])
        rows.extend([] for _ in range(case + 1 - len(rows)))
        rows[case].extend(numbers)

    def score(self, arm: str, name: str) -> Score | None:
        """The score of an arm by a measure; None if it was not measured in every case."""
        rows = self.numbers.get(arm, {}).get(name)
        if not rows or len(rows) < len(self.cases) or not all(rows):
            return None
        return score_of(self.measures[name], tabulate(rows), self._subjects())

    def times_better(self, arm: str, name: str, reference: str = STRENGTH_0) -> Score | None:
        """How many times better an arm is than another; see `tether.evaluation.intervals.ratio_of`."""
        if self.score(arm, name) is None or self.score(reference, name) is None:
            return None
        better, other = (tabulate(self.numbers[one][name]) for one in (arm, reference))
        return ratio_of(self.measures[name], better, other, self._subjects())

    def _subjects(self) -> list[str]:
        return [case.subject or case.key for case in self.cases]

    def of_picture(self, arm: str, name: str, case: int, picture: int = 0) -> float:
        """The score of one picture."""
        return self.measures[name].pool(tabulate([[self.numbers[arm][name][case][picture]]]))


def evaluate(
    cases: Sequence[Case],
    arms: Sequence[Arm],
    artist: Artist,
    kinds: Sequence[str],
    *,
    images: int = 1,
    seed: int = 0,
    words: Sequence[tuple[Measure, WordScore]] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Draws every case in every arm, and measures all pictures by the measures of all kinds.

    Args:
        cases: with maps of `kinds`.
        arms: how they are drawn.
        artist: draws, and keeps the pictures.
        kinds: whose measures are taken, in every arm.
        images: pictures a case; two or more for diversity over seeds.
        seed: of the first picture of the first case.
        words: further measures of a picture and its prompt, such as `tether.evaluation.clip`.
        on_progress: called with how many pictures there are, and how many there will be.

    Raises:
        TetherError: when maps of a kind are found in the pictures of some cases and not of others.
    """
    for kind in kinds:
        _check_findable(kind, cases)
    result, total, done = Evaluation(cases), len(cases) * len(arms) * images, 0
    numbered = list(enumerate(cases))
    at_once = max(1, artist.batch // images)
    for start in range(0, len(cases), at_once):
        some = numbered[start : start + at_once]
        for arm in arms:
            wanted = [(k, case, one) for k, case in some for one in seeds_of(seed, case.number, images)]
            drawn = artist.pictures([(case, one) for _, case, one in wanted], arm)
            for (k, _, _), path in zip(wanted, drawn, strict=True):
                result.pictures.setdefault(arm.name, [[] for _ in cases])[k].append(path)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            for k, _ in some:
                pictures = [open_image(path) for path in result.pictures[arm.name][k]]
                _measure(result, arm.name, k, pictures, kinds, words)
        for k, case in some:
            references = {SOURCE: open_image(artist.source(case)), AUTOENCODER: _round_trip(artist.base, case.image)}
            for name, picture in references.items():
                _measure(result, name, k, [picture], kinds, words)
            other = _agreement(case, case.pixels, exchanged(case.prompt))
            result.add(EXCHANGED, PROMPT, "prompt", k, [other])
    return result


def _check_findable(kind: str, cases: Sequence[Case]) -> None:
    if not any(measure.against == "map" for measure in measures_of(kind)):
        return
    found = {finder(kind, case) is not None: case.key for case in cases}
    if len(found) == 2:
        raise TetherError(
            f"{kind} maps are found in pictures for conditions like that of {found[True]}, and not for those like that "
            f"of {found[False]}: measure the sets one by one"
        )


def _measure(
    result: Evaluation,
    arm: str,
    k: int,
    pictures: Sequence[Image.Image],
    kinds: Sequence[str],
    words: Sequence[tuple[Measure, WordScore]],
) -> None:
    """All measures of the pictures of case k."""
    case = result.cases[k]
    for kind in kinds:
        measures = {one.key: one for one in measures_of(kind)}
        for picture in pictures:
            for key, numbers in numbers_of(kind, picture, case).items():
                result.add(arm, measures[key], f"{kind}/{key}", k, [numbers])
    pixels = [np.asarray(one) for one in pictures]
    result.add(arm, PROMPT, "prompt", k, [_agreement(case, one, case.prompt) for one in pixels])
    for measure, score in words:
        result.add(arm, measure, measure.key, k, [score(one, case.prompt) for one in pictures])
    if len(pixels) > 1:
        result.add(arm, DIVERSITY, "diversity", k, [diversity(pixels)])
    result.add(arm, SHARPNESS, "sharpness", k, [sharpness(one) for one in pixels])


def _agreement(case: Case, pixels: np.ndarray, prompt: str) -> Numbers:
    return agreement(pixels, prompt, load_judge().classes if case.layout == LAYOUT else None)


def _round_trip(base: Base, image: Image.Image) -> Image.Image:
    return from_pixels(base.decode_latents(base.encode_images(to_pixels(image))))[0]
