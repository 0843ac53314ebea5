"""Strength as a schedule over the steps: `0.2@0-0.3,0.6@0.3-1`. One grammar for commands, requests and Python.

    STRENGTH  a number | a ramp FROM-TO over the whole run | PART[,PART...]
    PART      VALUE@START-END, or FROM-TO@START-END, which is linear from START to END

START and END are shares of the run, 0 to 1. Step i of n has the strength of the part in which its middle lies,
(i + 1/2) / n in [START, END), and 0 where there is none. So parts that touch leave no step out, whatever n is, and a
ramp has its mean. Parts that overlap are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from tether.errors import TetherError

__all__ = ["NUMBER", "SCHEDULE_PATTERN", "Part", "Schedule", "parse_strength", "with_window"]

NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
"""A regular expression of a number without a sign. Digits match in one way alone: two would multiply with each number
of a part that does not match."""
_VALUE = rf"{NUMBER}(?:-{NUMBER})?"
_PART = rf"{_VALUE}@{NUMBER}-{NUMBER}"
SCHEDULE_PATTERN = rf"{_PART}(?:,{_PART})*|{_VALUE}"
"""A regular expression of the texts of strengths, without spaces."""
_READ = re.compile(rf"(?P<first>{NUMBER})(?:-(?P<last>{NUMBER}))?(?:@(?P<start>{NUMBER})-(?P<end>{NUMBER}))?")
_LONGEST = 2000
"""Characters: requests come from files and over networks too."""
_FORM = "write a number, or parts such as 0.2@0-0.3,0.6@0.3-1 or 0.2-0.8@0-0.5"


@dataclass(frozen=True)
class Part:
    """Strength from `first` at `start` linearly to `last` at `end`; start and end are shares of the run."""

    start: float
    end: float
    first: float
    last: float


@dataclass(frozen=True)
class Schedule:
    """A strength for each step of a run.

    Attributes:
        text: as it is written, without spaces, its parts in the order of time.
        parts: in the order of time; they do not overlap.
    """

    text: str
    parts: tuple[Part, ...]

    def at(self, step: int, total_steps: int) -> float:
        """The strength at step `step` (from 0) of `total_steps`."""
        middle = (step + 0.5) / total_steps
        for part in self.parts:
            if part.start <= middle < part.end:
                share = (middle - part.start) / (part.end - part.start)
                return part.first + (part.last - part.first) * share
        return 0.0

    @property
    def span(self) -> tuple[float, float]:
        """Where its first part starts and its last one ends."""
        return self.parts[0].start, self.parts[-1].end

    @property
    def mean(self) -> float:
        """Its mean over the span, gaps included."""
        area = sum((part.end - part.start) * (part.first + part.last) / 2 for part in self.parts)
        return area / (self.span[1] - self.span[0])

    def __str__(self) -> str:
        return self.text


def parse_strength(text: str) -> float | Schedule:
    """Reads a strength: a number, or a schedule.

    Raises:
        TetherError: when the text has another form, a part does not lie in 0 to 1 or has no length, or parts overlap.
    """
    if len(text) > _LONGEST:
        raise TetherError(f"strength {text[:40]!r}... has {len(text):,} characters: at most {_LONGEST:,}")
    read = [(_part(one, text), one) for one in re.sub(r"\s", "", text).split(",")]
    if len(read) > 1 and any("@" not in one for _, one in read):
        raise TetherError(f"strength {text[:60]!r}: each of several parts needs its @START-END")
    if "@" not in text and "-" not in text:
        return read[0][0].first
    read.sort(key=lambda one: one[0].start)
    for (part, one), (after, other) in pairwise(read):
        if after.start < part.end:
            raise TetherError(f"strength {text[:60]!r}: {one} and {other} overlap; parts may touch, or leave gaps of 0")
    return Schedule(",".join(one for _, one in read), tuple(part for part, _ in read))


def with_window(
    strength: float | Schedule, window: tuple[float, float]
) -> tuple[float | Schedule, tuple[float, float]]:
    """A schedule of one constant part is a number and a window; with another window, what the two share.

    Raises:
        TetherError: when they share nothing.
    """
    if not isinstance(strength, Schedule) or len(strength.parts) != 1:
        return strength, window
    part = strength.parts[0]
    if part.first != part.last:
        return strength, window
    start, end = max(part.start, window[0]), min(part.end, window[1])
    if start >= end:
        raise TetherError(f"strength {strength} lies outside of the window {window[0]:g}-{window[1]:g}")
    return part.first, (start, end)


def _part(one: str, text: str) -> Part:
    match = _READ.fullmatch(one)
    if match is None:
        raise TetherError(f"strength {text[:60]!r} cannot be read: {_FORM}")
    first, start, end = float(match["first"]), float(match["start"] or 0), float(match["end"] or 1)
    last = float(match["last"] or first)
    if not (math.isfinite(first) and math.isfinite(last)):
        raise TetherError(f"strength {text[:60]!r} is not a finite number: {_FORM}")
    if not 0 <= start < end <= 1:
        raise TetherError(f"strength {text[:60]!r}: {one[:40]} must have 0 <= START < END <= 1, shares of the run")
    return Part(start, end, first, last)
