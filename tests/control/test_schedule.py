"""Strength as a schedule over the steps: the grammar, and what each step gets."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from tether.control import Injection, Signal
from tether.control.schedule import Part, Schedule, parse_strength, with_window
from tether.errors import TetherError


def strengths(text: str, steps: int) -> list[float]:
    schedule = parse_strength(text)
    assert isinstance(schedule, Schedule)
    return [schedule.at(step, steps) for step in range(steps)]


def test_a_number_is_a_number() -> None:
    assert parse_strength("0.8") == 0.8
    assert parse_strength(".5") == 0.5
    assert parse_strength(" 2 ") == 2.0


def test_each_step_gets_the_part_in_which_its_middle_lies() -> None:
    assert strengths("0.2@0-0.3,0.6@0.3-1", 10) == [0.2] * 3 + [0.6] * 7
    # Step 2 of 7 reaches from 0.286 to 0.429; its middle is 0.357.
    assert strengths("0.2@0-0.3,0.6@0.3-1", 7) == [0.2] * 2 + [0.6] * 5
    assert strengths("0.2@0-0.3,0.6@0.3-1", 1) == [0.6]
    # The middle of step 1 of 5 is 0.3 itself: a part begins at its START.
    assert strengths("0.2@0-0.3,0.6@0.3-1", 5) == [0.2, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("edge", [0.1, 1 / 3, 0.3, 0.55, 0.9])
def test_parts_that_touch_leave_no_step_out(edge: float) -> None:
    schedule = Schedule("", (Part(0, edge, 0.2, 0.2), Part(edge, 1, 0.6, 0.6)))
    for steps in range(1, 101):
        assert {schedule.at(step, steps) for step in range(steps)} <= {0.2, 0.6}


def test_gaps_are_zero() -> None:
    assert strengths("0.5@0.2-0.4,1@0.6-0.8", 10) == [0, 0, 0.5, 0.5, 0, 0, 1, 1, 0, 0]


def test_a_ramp_is_linear_and_has_its_mean_whatever_the_steps() -> None:
    assert strengths("0-1@0-0.5", 8) == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8, 0, 0, 0, 0])
    assert strengths("1-0", 4) == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8])
    for steps in (1, 2, 7, 20, 50):
        assert sum(strengths("0.2-0.8", steps)) / steps == pytest.approx(0.5)


def test_spaces_and_order_do_not_matter() -> None:
    spaced = parse_strength(" 0.6 @ 0.3 - 1 , 0.2@0-0.3 ")
    assert spaced == parse_strength("0.2@0-0.3,0.6@0.3-1")
    assert str(spaced) == "0.2@0-0.3,0.6@0.3-1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: write a number, or parts such as"),
        ("a", "cannot be read"),
        ("-0.5", "cannot be read"),
        ("nan", "cannot be read"),
        ("1e3", "cannot be read"),
        ("0.2@0-0.3,", "cannot be read"),
        ("0.2@0.3", "cannot be read"),
        ("0.2@0-0.3,0.6", "each of several parts needs its @START-END"),
        ("0.2,0.6", "each of several parts needs its @START-END"),
        ("0.2@0-0.5,0.6@0.4-1", "0.2@0-0.5 and 0.6@0.4-1 overlap"),
        ("0.6@0.4-1,0.2@0-0.5", "0.2@0-0.5 and 0.6@0.4-1 overlap"),
        ("0.2@0.5-0.5", "0 <= START < END <= 1"),
        ("0.2@0-1.5", "0 <= START < END <= 1"),
        ("0.2@0.6-0.1", "0 <= START < END <= 1"),
        ("9" * 400, "is not a finite number"),
        ("9" * 1_000_000 + "x", "has 1,000,001 characters: at most 2,000"),
    ],
)
def test_what_is_not_a_strength_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(TetherError) as error:
        parse_strength(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_constant_part_is_a_number_and_a_window() -> None:
    assert with_window(parse_strength("0.2@0-0.3"), (0.0, 1.0)) == (0.2, (0.0, 0.3))
    assert with_window(parse_strength("0.2@0-0.6"), (0.4, 1.0)) == (0.2, (0.4, 0.6))
    injection = Injection("0.2@0-0.3")
    assert (injection.strength, injection.window) == (0.2, (0.0, 0.3))
    with pytest.raises(TetherError, match=r"0.2@0-0.3 lies outside of the window 0.5-1"):
        Injection("0.2@0-0.3", window=(0.5, 1.0))


def test_a_window_cuts_a_schedule() -> None:
    both = Injection("0.2@0-0.3,0.6@0.3-1", window=(0.2, 0.8))
    for steps in range(1, 31):
        for step in range(steps):
            inside = Injection(window=(0.2, 0.8)).is_active(step, steps)
            assert both.is_active(step, steps) == inside


def test_a_control_is_not_active_where_its_schedule_is_zero() -> None:
    injection = Injection("0@0-0.5,1@0.5-1")
    assert [injection.is_active(step, 4) for step in range(4)] == [False, False, True, True]
    assert injection.why_idle(4) is None


@pytest.mark.parametrize(
    ("injection", "why"),
    [
        (Injection("0@0-0.5,0@0.5-1"), "its strength 0@0-0.5,0@0.5-1 is 0 at all of the 10 steps"),
        (Injection("0.2-0.8@0.51-0.54"), "its strength 0.2-0.8@0.51-0.54 is 0 at all of the 10 steps"),
        (
            Injection("1@0-0.2,1@0.8-1", window=(0.3, 0.7)),
            "its strength 1@0-0.2,1@0.8-1 is 0 at all of the 10 steps in its window",
        ),
    ],
)
def test_a_schedule_that_never_acts_says_why(injection: Injection, why: str) -> None:
    assert injection.why_idle(10) == why


@pytest.mark.parametrize("weighting", ["balanced", "cfg-rw", "soft", (0.5, 2.0, 1.0)])
def test_a_schedule_multiplies_the_weights_of_each_resolution(weighting: object) -> None:
    torch.manual_seed(0)
    signal = Signal(
        {"skip.0": torch.randn(1, 2, 8, 8), "skip.1": torch.randn(1, 2, 4, 4), "middle": torch.ones(1, 2, 2, 2)}
    )
    injection = Injection("0.25@0-0.5,0.75@0.5-1", weighting)  # type: ignore[arg-type]
    for step, strength in enumerate([0.25, 0.25, 0.75, 0.75]):
        ours = injection.apply(signal, 8, injection.strength_at(step, 4))
        fixed = Injection(strength, weighting).apply(signal, 8)  # type: ignore[arg-type]
        assert all(torch.equal(ours[point], fixed[point]) for point in signal)
    with pytest.raises(TetherError, match="is a schedule: give the strength of the step"):
        injection.apply(signal, 8)


def test_the_grammar_needs_nothing_heavy() -> None:
    code = (
        "import sys, tether.control.schedule; print(sorted({'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_pair_of_overlapping_parts_is_refused() -> None:
    spans = [(a / 4, b / 4) for a, b in itertools.combinations(range(5), 2)]
    for one, other in itertools.product(spans, spans):
        text = f"1@{one[0]}-{one[1]},2@{other[0]}-{other[1]}"
        if one[0] < other[1] and other[0] < one[1]:
            with pytest.raises(TetherError, match="overlap"):
                parse_strength(text)
        else:
            assert isinstance(parse_strength(text), Schedule)


def test_a_strength_of_many_digits_is_refused_at_once() -> None:
    digits = "1" * 400
    with pytest.raises(TetherError, match="cannot be read"):  # where digits match in several ways, in 400^4 steps
        parse_strength(f"{digits}-{digits}@{digits}-{digits}x")
