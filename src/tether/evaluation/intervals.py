"""Scores with 95% intervals, by the bootstrap (Efron, 1979).

The subjects of the held-out cases are drawn again, with replacement, as many as there are; the score of each such set
is computed, and the interval is from its 2.5th to its 97.5th percentile. All pictures of a case go together, as they
share a condition, and all cases of a subject, as they show the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tether.kinds.measures import Measure, Numbers, Table

__all__ = ["Score", "interval", "ratio_of", "score_of", "tabulate"]

RESAMPLES, SEED = 1000, 95


@dataclass(frozen=True)
class Score:
    """A score and its 95% interval."""

    value: float
    low: float
    high: float


def tabulate(rows: Sequence[Sequence[Numbers]]) -> Table:
    """The numbers of C cases with I pictures each as arrays `(C, I)`."""
    keys = sorted({key for row in rows for numbers in row for key in numbers})
    return {key: np.array([[one.get(key, 0.0) for one in row] for row in rows], np.float64) for key in keys}


def score_of(measure: Measure, table: Table, subjects: Sequence[str] | None = None) -> Score:
    """The score of a table, with its interval.

    Args:
        measure: pools the numbers.
        table: of C cases.
        subjects: of each case; by default each has its own.
    """
    found = interval(lambda cases: measure.pool(_rows(table, cases)), _groups(table, subjects))
    return Score(measure.pool(table), *found)


def ratio_of(measure: Measure, table: Table, reference: Table, subjects: Sequence[str] | None = None) -> Score:
    """How many times better one table is than another of the same cases: the score by the reference's, or for errors
    the reference's by the score. Infinite where the divisor is 0. Arguments as for `score_of`."""

    def ratio(one: Table, other: Table) -> float:
        scores = measure.pool(one), measure.pool(other)
        better, worse = scores if measure.higher else scores[::-1]
        return better / worse if worse else float("inf")

    groups = _groups(table, subjects)
    low, high = interval(lambda cases: ratio(_rows(table, cases), _rows(reference, cases)), groups)
    return Score(ratio(table, reference), low, high)


def interval(score: Callable[[np.ndarray], float], groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """The 95% interval of a score of cases, given by their numbers `(n,)`. Always the same for the same cases.

    Args:
        score: of some cases.
        groups: the numbers of the cases that go together.
    """
    rng = np.random.default_rng(SEED)
    drawn = (rng.integers(len(groups), size=len(groups)) for _ in range(RESAMPLES))
    found = [score(np.concatenate([groups[k] for k in some])) for some in drawn]
    if np.isnan(found).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def _rows(table: Table, cases: np.ndarray) -> Table:
    return {key: values[cases] for key, values in table.items()}


def _groups(table: Table, subjects: Sequence[str] | None) -> list[np.ndarray]:
    """The numbers of each subject's cases."""
    cases = len(next(iter(table.values())))
    if subjects is None:
        return [np.array([case]) for case in range(cases)]
    groups: dict[str, list[int]] = {}
    for case, subject in enumerate(subjects):
        groups.setdefault(subject, []).append(case)
    return [np.array(one) for one in groups.values()]
