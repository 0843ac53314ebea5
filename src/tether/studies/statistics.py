"""Scores over training seeds and held-out conditions, with 95% intervals by the bootstrap (Efron, 1979).

Each resample draws seeds with replacement, and conditions with replacement, the same conditions for every seed: the
interval covers another training as well as other conditions. With one seed it covers other conditions alone; with n
seeds it has (n - 1) / n of the variance between trainings, which is too little for two or three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tether.evaluation.intervals import RESAMPLES, SEED, Score, tabulate
from tether.kinds.measures import Measure, Numbers, Table

__all__ = ["difference_of_seeds", "not_learned", "ratio_of_seeds", "score_of_seeds", "shown", "signed"]

Rows = Sequence[Sequence[Numbers]]
"""Numbers of I images for each of C conditions."""


def score_of_seeds(measure: Measure, seeds: Sequence[Rows]) -> Score:
    """The score of all images of all seeds, and its interval.

    Args:
        measure: pools the numbers.
        seeds: for each training seed the numbers of the same conditions.
    """
    tables = [tabulate(rows) for rows in seeds]
    return _scored([tables], lambda pooled: measure.pool(pooled[0]))


def difference_of_seeds(measure: Measure, seeds: Sequence[Rows], reference: Sequence[Rows]) -> Score:
    """The score of some images less that of others of the same seeds and conditions, and its interval: where 0 is
    outside, they differ."""
    both = [[tabulate(rows) for rows in one] for one in (seeds, reference)]
    return _scored(both, lambda pooled: measure.pool(pooled[0]) - measure.pool(pooled[1]))


def ratio_of_seeds(measure: Measure, seeds: Sequence[Rows], reference: Sequence[Rows]) -> Score:
    """The score of some images by that of others of the same seeds and conditions, less 1, and its interval: +0.07 is
    7% more."""
    both = [[tabulate(rows) for rows in one] for one in (seeds, reference)]
    return _scored(both, lambda pooled: measure.pool(pooled[0]) / measure.pool(pooled[1]) - 1)


def signed(score: Score, digits: int = 3) -> str:
    """A difference for people: "+0.051 [-0.010, +0.112]", or "+0.051" where only one was measured."""
    return shown(score, f"+.{digits}f")


def shown(score: Score, form: str) -> str:
    """A score for people, in a format such as ".2f": with its interval, where more than one was measured."""
    found = f"{score.value:{form}}"
    return found if score.low == score.high else f"{found} [{score.low:{form}}, {score.high:{form}}]"


def not_learned(steps: int, gain: Score) -> str:
    """For a summary: that nothing can be judged, as not even the ControlNet follows the lines."""
    return (
        f"after {steps} steps the ControlNet does not follow the lines more than no control does (F1 {signed(gain)}): "
        "give a larger --budget"
    )


def _scored(groups: Sequence[Sequence[Table]], score: Callable[[Sequence[Table]], float]) -> Score:
    """The score of groups of tables, one table a seed, and its interval."""
    seeds = len(groups[0])
    cases = len(next(iter(groups[0][0].values())))
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(RESAMPLES):
        chosen, places = rng.integers(seeds, size=seeds), rng.integers(cases, size=cases)
        found.append(score([_pooled([tables[k] for k in chosen], places) for tables in groups]))
    low, high = (np.nan, np.nan) if np.isnan(found).all() else np.nanquantile(found, [0.025, 0.975], method="nearest")
    every = np.arange(cases)
    return Score(float(score([_pooled(tables, every) for tables in groups])), float(low), float(high))


def _pooled(tables: Sequence[Table], cases: np.ndarray) -> Table:
    """The numbers of some cases of several seeds, one below the other."""
    keys = {key for table in tables for key in table}
    shape = next(iter(tables[0].values())).shape
    empty = np.zeros(shape)
    return {key: np.concatenate([table.get(key, empty)[cases] for table in tables]) for key in keys}
