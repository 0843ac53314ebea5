"""Deep features beside controls, and controls by need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tether
from tether import Pipeline, annotate, load_base
from tether.base.deep import SplitDenoiser
from tether.base.denoiser import UNetDenoiser
from tether.base.noise import noise_process
from tether.control import ControlNet, Injection, Signal
from tether.errors import TetherError
from tether.images import open_image
from tether.sampling import Guidance, Steering, make_step
from tether.sampling.guidance import classifier_free_guidance
from tether.sampling.reuse import Deep, relative_change

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet, randomize
from .fakes import TIMESTEPS, UNGUIDED, FakeControl, FakeDenoiser, latents_of, random_hint

STEPS = 8
EXAMPLES = Path(tether.__file__).parent / "examples"


class Model:
    """A tiny U-Net with two controls, whose calls are counted by the modules that run."""

    def __init__(self) -> None:
        self.unet = make_unet("bundled")
        self.denoiser = UNetDenoiser(self.unet, noise_process(NOISE_SCHEDULE))
        self.controls = [ControlNet.from_unet(self.unet, hint_channels=(4, 4, 8, 8)).eval() for _ in range(2)]
        for control in self.controls:
            randomize(control)
        text = make_inputs(self.unet, batch=2)["conditioning"]
        self.guidance = Guidance(text.row(0), text.row(1), 3.0)
        self.hints = [control.encode(torch.rand(1, 3, 64, 64)) for control in self.controls]
        self.whole: list[int] = []

    def step(self, injections: list[Injection], deep: Deep | None, **more: Any) -> Any:
        steering = [
            Steering(control, hint, one)
            for control, hint, one in zip(self.controls, self.hints, injections, strict=False)
        ]
        return make_step(self.denoiser, steering, self.guidance, STEPS, deep=deep, **more)

    def counted(self, step: Any, latents: Tensor) -> list[int]:
        """The steps at which the middle of the U-Net is computed."""
        handle = self.unet.mid_block.register_forward_hook(lambda *_: self.whole.append(self.index))
        self.whole = []
        for self.index in range(STEPS):
            step(latents, torch.tensor(900 - 100 * self.index), self.index)
        handle.remove()
        return self.whole


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.no_grad():
        return Model()


LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("injections", "deep", "whole"),
    [
        ([], Deep(3), [0, 3, 6]),
        ([Injection()], Deep(4, skips=2), [0, 4]),
        ([Injection(window=(0, 5 / 8))], Deep(3), [0, 3, 5]),
        ([Injection(window=(0.25, 1)), Injection(window=(0, 0.5))], Deep(8), [0, 2, 4]),
        ([Injection(strength=0.0)], Deep(8), [0]),
        ([Injection("0.5@0-0.5,1@0.5-1")], Deep(8), [0, 4]),
        ([Injection("0.9-1")], Deep(8), [0]),
        ([Injection()], Deep(2, window=(0.5, 1)), [0, 1, 2, 3, 5, 7]),
        ([Injection(weighting="released")], Deep(8), [0]),
    ],
)
def test_the_deep_part_is_computed_at_each_nth_step_and_whenever_a_control_changes(
    model: Model, injections: list[Injection], deep: Deep, whole: list[int]
) -> None:
    assert model.counted(model.step(injections, deep), LATENTS) == whole


@torch.no_grad()
def test_guidance_that_ends_needs_a_whole_step_of_its_own(model: Model) -> None:
    step = model.step([Injection()], Deep(8), guidance_window=(0.0, 0.5))
    assert model.counted(step, LATENTS) == [0, 4]


@torch.no_grad()
def test_where_a_control_is_taken_away_the_step_is_that_of_no_cache_to_the_bit(model: Model) -> None:
    gone = [Injection(window=(0, 0.5))]
    cached, plain = model.step(gone, Deep(8)), model.step(gone, None)
    without = model.step([], Deep(8))
    for index in range(STEPS):
        t = torch.tensor(900 - 100 * index)
        found, expected = cached(LATENTS, t, index), plain(LATENTS, t, index)
        if index in (0, 4):
            assert torch.equal(found, expected)
        if index == 4:
            without(LATENTS, t, 0)  # its whole step
        if index > 4:
            assert torch.equal(found, without(LATENTS, t, index - 4))
    assert _error(plain(LATENTS, torch.tensor(500), 3), without(LATENTS, torch.tensor(500), 0)) > 0.1


def test_a_picture_whose_control_is_taken_away_is_that_of_no_cache_within_the_stated_error() -> None:
    """docs/performance.md states a twelfth of the latents' length; the control that stays moves them by half of it."""
    pipe = Pipeline(load_base(light=True), [ControlNet.load("canny")])
    edges = annotate("canny", open_image(EXAMPLES / "house.webp").convert("RGB"))

    def run(end: float, **less: Any) -> Tensor:
        injections = [Injection(window=(0, end))]
        found = pipe("a house, 3d emoji", [edges], seed=7, output="latents", injections=injections, **less)
        assert isinstance(found, Tensor)
        return found

    expected = run(0.3)
    assert _error(run(0.3, deep_every=2), expected) < 1 / 12
    assert _error(run(1.0), expected) > 0.4


@torch.no_grad()
@pytest.mark.parametrize("weighting", ["balanced", "released", "cfg-rw"])
def test_what_a_control_adds_to_the_first_skips_is_that_of_the_step_itself(model: Model, weighting: Any) -> None:
    injection = Injection("0.95-1", weighting, sides="both")
    step = model.step([injection], Deep(2, skips=2))
    first, second = torch.tensor(900), torch.tensor(800)
    step(LATENTS, first, 0)
    found = step(LATENTS + 1, second, 1)

    split, text = SplitDenoiser(model.denoiser, 2), model.guidance.stacked()

    def signal_at(latents: Tensor, t: Tensor, index: int) -> Signal:
        signal = model.controls[0](latents, t, text, model.hints[0])
        return injection.apply(signal, 8, injection.strength_at(index, STEPS))

    before, now = LATENTS.repeat(2, 1, 1, 1), LATENTS.repeat(2, 1, 1, 1) + 1
    _, deep = split.predict_whole(before, first, text, signal_at(before, first, 0))
    predicted = split.predict_shallow(now, second, text, signal_at(now, second, 1).first_skips(2), deep)
    torch.testing.assert_close(found, classifier_free_guidance(predicted, 3.0))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class Drifting(FakeControl):
    """A signal that grows by a share of itself from step to step."""

    def __init__(self, growth: float) -> None:
        super().__init__()
        self.growth = growth

    def signal(self, latents: Tensor, timestep: Any, *others: Any) -> Signal:
        index = int(100 - timestep.flatten()[0]) // 10
        self.calls.append((latents, timestep, *others))
        return Signal({"skip.0": torch.ones(2, 4, 8, 8) * (1 + self.growth * index)})


@pytest.mark.parametrize(
    ("growth", "tolerance", "run_at"),
    [
        (0.0, 0.1, [0, 1]),
        (0.1, 0.2, [0, 1, 4, 7]),  # 0.1 / 1.1 a step serves 2; 0.1 / 1.4 serves 2
        (0.5, 0.2, [0, 1, 2, 3, 5, 7]),
        (0.1, 0.0, list(range(8))),
    ],
)
def test_a_control_by_need_is_run_when_its_signal_may_have_changed_by_more_than_the_tolerance(
    growth: float, tolerance: float, run_at: list[int]
) -> None:
    control, denoiser = Drifting(growth), FakeDenoiser()
    step = make_step(denoiser, [Steering(control, random_hint(), Injection(tolerance=tolerance))], UNGUIDED, 8)
    for index in range(8):
        step(latents_of(index), TIMESTEPS - 10 * index, index)
    assert [int(100 - t[0]) // 10 for _, t, *_ in control.calls] == run_at


def test_the_change_of_a_signal_is_relative_to_its_length_over_all_points() -> None:
    new = Signal({"skip.0": torch.full((1, 1, 1, 1), 3.0), "middle": torch.full((1, 1, 1, 1), 4.0)})
    old = Signal({"skip.0": torch.full((1, 1, 1, 1), 3.0), "middle": torch.full((1, 1, 1, 1), 2.0)})
    assert relative_change(new, old) == pytest.approx(2 / 5)
    assert relative_change(new.scaled(0.0), old.scaled(0.0)) == 0


def test_a_tolerance_must_be_a_number_from_zero_to_below_one() -> None:
    for wrong in (-0.1, 1, "0.1", float("nan")):
        with pytest.raises(TetherError, match="tolerance is"):
            Injection(tolerance=wrong)  # type: ignore[arg-type]
