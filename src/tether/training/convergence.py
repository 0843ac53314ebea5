"""Sudden convergence: did the control begin to work from one validation to the next (arXiv:2302.05543, section 3.3)?

Let y_1..n be the condition fidelity at n validations. Three models of it compete, each fitted by least squares:

    gradual     y_i = a + b i + c (i - k)+                      a line with one bend at k: growth, but no jump
    sudden      y_i = a + b i + c (i - k)+ + d ramp_{k,w}(i)    and a rise d that takes w <= 2 validations
    slow        the same with w = 3, 4, 6, 8, ... validations   an S-shaped rise
    with        ramp_{k,w}(i) = clip((i - k) / w, 0, 1)

The verdict is "sudden" when all of these hold:

1. The jump is not noise. With R0, R1 the residual sums of squares of "gradual" (at its best bend) and "sudden" (at its
   best k), were there no jump then R1/R0 at a given k would be Beta((n - 4)/2, 1/2), and

       p = P(ratio <= r) <= r^m (1 - r)^(-1/2) / (m B(m, 1/2)),   m = (n - 4)/2, r = R1/R0.

   This bound must stay below `ALPHA`. No noise level is given or guessed: it is the residual itself, so that few
   validations count for little. R0's free bend, and the small ALPHA, pay for the many k and for testing again after
   every validation.
2. It is a jump and not a slope: "sudden" is `ODDS` times likelier than the best "slow" one, (R_slow/R1)^(n/2) >= ODDS.
3. It matters and it lasts: d >= `MIN_RISE`, with at least 4 validations on each side, whose medians differ by d/2 or
   more.

It is "gradual" when fidelity rises by `MIN_RISE` or more and a flat line is refuted with the same bound, else "flat".
Gradual growth may still have a beginning: of the curves that are flat, climb, and then climb at another slope, the best
one gives it, if it is flat for 4 validations or more and `ODDS` times likelier than those that are not. Control
appeared there, though it took more than two validations to arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

__all__ = ["Convergence", "find_convergence"]

ALPHA = 1e-6
ODDS = 20.0
MIN_RISE = 0.05
_SIDE = 4  # validations that a jump needs on each side
_WINDOW = 64  # only so many of the latest validations are used
_FAST = (1, 2)


@dataclass(frozen=True)
class Convergence:
    """The verdict on a curve of condition fidelity.

    Attributes:
        kind: "flat", "gradual" or "sudden".
        step: where control appeared: the first validation after the jump; for "gradual", the first one after the flat
            part, if there is one.
        before: median fidelity just before the jump (of the first validations, if there is none).
        after: median fidelity just after it (of the last validations).
        p_value: bound on the probability of such a jump, or growth, in noise.
    """

    kind: Literal["flat", "gradual", "sudden"]
    step: int | None = None
    before: float = 0.0
    after: float = 0.0
    p_value: float = 1.0


def find_convergence(steps: Sequence[int], fidelity: Sequence[float]) -> Convergence:
    """Judges a curve of condition fidelity; may be called again after each validation.

    Args:
        steps: the steps of the validations, rising, roughly evenly spaced.
        fidelity: one value per validation; larger is better, in [0, 1] like all our metrics.
    """
    y = np.asarray(fidelity[-_WINDOW:], dtype=np.float64)
    steps = list(steps)[-_WINDOW:]
    n = len(y)
    if n < 2 * _SIDE or not np.isfinite(y).all():
        return Convergence("flat")
    before, after = float(np.median(y[:_SIDE])), float(np.median(y[-_SIDE:]))
    bends, places, spaces = _spaces(n)
    y = y - y.mean()
    # Below this the residual is rounding, of the metric as of the arithmetic.
    total = float(y @ y)
    floor = n * 1e-6 * MIN_RISE**2 + 1e-12 * total
    gradual = _residual(bends, y, floor).min()
    each = _residual(spaces, y, floor)
    fast = np.isin(places[:, 1], _FAST)
    best = int(np.where(fast, each, np.inf).argmin())
    k, width = (int(value) for value in places[best])
    p = _p_value(each[best] / gradual, (n - 4) / 2)
    odds = 0.5 * n * math.log(each[~fast].min() / each[best])
    low, high = np.median(y[k - _SIDE + 1 : k + 1]), np.median(y[k + width : k + width + _SIDE])
    rise = _rise(n, k, width, y)
    if p < ALPHA and odds >= math.log(ODDS) and rise >= MIN_RISE and high - low >= rise / 2:
        mean = float(np.mean(np.asarray(fidelity[-_WINDOW:], dtype=np.float64)))
        return Convergence("sudden", steps[k + width], float(low) + mean, float(high) + mean, p)
    # A bent line and a flat one differ by two parameters and the bend: three halves fewer degrees of freedom.
    p = _p_value(gradual / max(total, floor), (n - 4) / 2)
    if p >= ALPHA or after - before < MIN_RISE:
        return Convergence("flat", None, before, after, p)
    onset = _onset(y, floor)
    return Convergence("gradual", None if onset is None else steps[onset], before, after, p)


def _onset(y: np.ndarray, floor: float) -> int | None:
    """The validation after k, of the best y_i = a + b (i - k)+ + c (i - l)+ with k < l: flat, a climb, another climb.

    None unless a beginning after `_SIDE` flat validations is `ODDS` times likelier than one before.
    """
    n, i = len(y), np.arange(len(y), dtype=np.float64)
    pairs = np.array([(k, bend) for k in range(n - 2) for bend in range(k + 1, n - 1)])
    columns = [[np.ones(n), np.maximum(i - k, 0), np.maximum(i - bend, 0)] for k, bend in pairs]
    each = _residual(_orthonormal(np.stack(columns).transpose(0, 2, 1)), y, floor)
    late = pairs[:, 0] >= _SIDE - 1
    best = int(np.where(late, each, np.inf).argmin())
    if 0.5 * n * math.log(each[~late].min() / each[best]) < math.log(ODDS):
        return None
    return int(pairs[best, 0]) + 1


def _p_value(ratio: float, m: float) -> float:
    """The bound of the module's docstring on P(Beta(m, 1/2) <= ratio)."""
    if not 0 < ratio < 1:
        return 1.0
    log_beta = math.lgamma(m) + math.lgamma(0.5) - math.lgamma(m + 0.5)
    return min(1.0, math.exp(m * math.log(ratio) - 0.5 * math.log1p(-ratio) - math.log(m) - log_beta))


def _ramp(n: int, k: int, width: int) -> np.ndarray:
    return np.clip((np.arange(n) - k) / width, 0, 1)


def _line_with_bend(n: int, k: int) -> list[np.ndarray]:
    i = np.arange(n, dtype=np.float64)
    return [np.ones(n), i, np.maximum(i - k, 0)]


def _rise(n: int, k: int, width: int, y: np.ndarray) -> float:
    """d of the model "sudden" with its jump at k."""
    columns = np.stack([*_line_with_bend(n, k), _ramp(n, k, width)], axis=1)
    return float(np.linalg.lstsq(columns, y, rcond=None)[0][-1])


@lru_cache(maxsize=4)
def _spaces(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For n validations: orthonormal columns `(K, n, 3)` of "gradual" for each bend; (k, w) `(M, 2)` and columns
    `(M, n, 4)` of "sudden" and "slow"."""
    widths = [1, 2, 3, 4]
    while widths[-1] < n:
        widths.append(widths[-2] * 2)
    bends = np.stack([np.stack(_line_with_bend(n, k), axis=1) for k in range(1, n - 1)])
    places, columns = [], []
    for width in widths:
        # A slow rise may have begun before the first validation, or not be over; a jump needs both sides.
        first, last = (_SIDE - 1, n - _SIDE - width) if width in _FAST else (-width + 2, n - 3)
        for k in range(first, last + 1):
            places.append((k, width))
            columns.append(np.stack([*_line_with_bend(n, k), _ramp(n, k, width)], axis=1))
    return _orthonormal(bends), np.array(places), _orthonormal(np.stack(columns))


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Columns that span the same spaces; those that add nothing become zero."""
    u, s, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=1, keepdims=True).clip(1e-12), full_matrices=False)
    return u * (s > 1e-9 * s[:, :1])[:, None, :]


def _residual(spaces: np.ndarray, y: np.ndarray, floor: float) -> np.ndarray:
    """Residual sums of squares of y after projection on each space, `(M,)`."""
    return np.maximum(y @ y - ((y @ spaces) ** 2).sum(axis=-1), floor)
