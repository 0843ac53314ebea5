"""Counts the words of all captions that the base is trained on: words.txt, a word and its count a line, most first.

    python recipes/word_list.py --out src/tether/weights/base/words.txt      (after bank.py)

Nothing is drawn: the plans of recipes/mixture.py and the scenes of recipes/render_scenes.py are made again.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from common import DATA
from mixture import Job, Planner, count_plans, jobs, make_plans, read_planner
from render_scenes import captions, training_scene
from samples import CAPTIONS
from words import unmark

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
"""Letters and digits, with hyphens and apostrophes inside."""


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word is in some captions, in lower case."""
    return Counter(word for text in texts for word in WORD.findall(text.lower()))


def plan_words(job: Job, planner: Planner) -> Counter[str]:
    """The words of the captions of some plans."""
    return count_words(unmark(caption)[0] for plan in make_plans(job, planner) for caption in plan.captions)


def scene_words(seed: int) -> Counter[str]:
    """The words of the captions of a scene."""
    return count_words(captions(training_scene(seed), seed)[:CAPTIONS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of composed images")
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1, help="of the plans")
    parser.add_argument("--out", type=Path, default=DATA / "words.txt")
    arguments = parser.parse_args()
    planner, counts = read_planner(arguments.data, centred=0.62), count_plans(arguments.scale)
    words: Counter[str] = Counter()
    with Pool() as pool:
        for found in pool.imap(partial(plan_words, planner=planner), jobs(counts, arguments.seed)):
            words.update(found)
        for found in pool.imap(scene_words, range(arguments.scenes), chunksize=200):
            words.update(found)
    rows = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    arguments.out.write_text("".join(f"{word} {count}\n" for word, count in rows))
    print(f"{arguments.out}: {len(rows)} words, {arguments.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
