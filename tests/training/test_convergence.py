"""The verdict on obedience curves whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tether.training.convergence import find_convergence

LOOKS = 36
i = np.arange(LOOKS)


def first_alarm(curve: np.ndarray) -> int | None:
    """The number of looks after which a run that is judged after each look is first called sudden."""
    for n in range(1, len(curve) + 1):
        if find_convergence(list(range(n)), curve[:n].tolist()).kind == "sudden":
            return n
    return None


def noise(seed: int, deviation: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, deviation, LOOKS)


def test_a_thousand_flat_noisy_runs_judged_after_every_look_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    draws = {
        "normal": lambda: rng.normal(0, rng.choice([0.005, 0.02, 0.05, 0.1]), LOOKS),
        "uniform": lambda: rng.uniform(-0.3, 0.3, LOOKS),
        "heavy tails": lambda: 0.03 * rng.standard_t(3, LOOKS),
        "outliers": lambda: rng.normal(0, 0.01, LOOKS) + 0.4 * (rng.random(LOOKS) < 0.03),
    }
    curves = np.stack([0.3 + draw() for _ in range(250) for draw in draws.values()])
    assert len(curves) == 1000
    # Length by length, as the fitted descriptions are kept for one length.
    alarms = [
        (n, row)
        for n in range(1, LOOKS + 1)
        for row in range(len(curves))
        if find_convergence(list(range(n)), curves[row, :n].tolist()).kind == "sudden"
    ]
    assert alarms == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("jump", "deviation"), [(0.5, 0.0), (0.5, 0.02), (0.3, 0.02), (0.5, 0.03)], ids=lambda value: str(value)
)
def test_a_jump_is_found_where_it_is_and_within_a_dozen_looks(seed: int, jump: float, deviation: float) -> None:
    curve = 0.2 + jump * (i >= 18) + noise(seed, deviation)
    alarm = first_alarm(curve)
    assert alarm is not None
    assert 18 < alarm <= 18 + 12
    verdict = find_convergence((i * 250).tolist(), curve.tolist())
    assert verdict.kind == "sudden"
    assert verdict.step == 18 * 250
    assert verdict.before == pytest.approx(0.2, abs=0.05)
    assert verdict.after == pytest.approx(0.2 + jump, abs=0.05)


def test_a_jump_is_found_though_obedience_goes_on_growing_after_it() -> None:
    after = np.maximum(i - 15, 0)
    curve = 0.2 + 0.4 * (i >= 15) + 0.15 * (1 - np.exp(-after / 10)) + noise(1, 0.02)
    verdict = find_convergence(i.tolist(), curve.tolist())
    assert (verdict.kind, verdict.step) == ("sudden", 15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("growth", "begins"),
    [
        pytest.param(0.5 * i / LOOKS, None, id="line"),
        pytest.param(0.5 * np.sqrt(i / LOOKS), None, id="root"),
        pytest.param(0.5 * (1 - np.exp(-i / 8)), None, id="saturating"),
        pytest.param(0.5 / (1 + np.exp(-(i - 18) / 4)), 12, id="S over 16 looks"),
        pytest.param(0.5 * np.clip((i - 12) / 10, 0, 1), 13, id="ramp over 10 looks"),
        pytest.param(0.4 * (1 - np.exp(-np.maximum(i - 12, 0) / 4)), 13, id="flat, then saturating"),
    ],
)
def test_slow_growth_is_gradual_and_never_sudden(growth: np.ndarray, begins: int | None, seed: int) -> None:
    curve = 0.2 + growth + noise(seed, 0.02)
    assert first_alarm(curve) is None
    verdict = find_convergence(i.tolist(), curve.tolist())
    assert verdict.kind == "gradual"
    assert verdict.step == (None if begins is None else pytest.approx(begins, abs=3))


def test_a_jump_down_is_no_convergence() -> None:
    curve = 0.7 - 0.5 * (i >= 18) + noise(0, 0.02)
    assert first_alarm(curve) is None


def test_a_peak_that_does_not_last_is_no_convergence() -> None:
    curve = 0.2 + 0.5 * ((i >= 18) & (i < 20)) + noise(0, 0.02)
    assert first_alarm(curve) is None


def test_too_few_looks_and_a_curve_with_nan_are_flat() -> None:
    assert find_convergence([0, 1, 2], [0.1, 0.1, 0.9]).kind == "flat"
    assert find_convergence(i.tolist(), [math.nan] * LOOKS).kind == "flat"
