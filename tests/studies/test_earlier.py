"""Earlier ways to steer: what they change before training, that they learn, and that they come back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tether.base import Base
from tether.control import Conditioning, load_control
from tether.control.control import Control
from tether.control.signal import Signal
from tether.studies.earlier import (
    Adapter,
    Concatenated,
    ControlLora,
    EdgeGuidance,
    SmallCopy,
    UnlockedControlNet,
)
from tether.studies.earlier.edge_guidance import EdgeLoss
from tether.training.batch import Batch, sample_generators
from tether.training.objective import ControlObjective

from ..tiny import make_inputs, make_training_base, randomize

WAYS: list[type[Control]] = [Adapter, Concatenated, ControlLora, EdgeGuidance, SmallCopy, UnlockedControlNet]
LOCKED = [Adapter, ControlLora, EdgeGuidance, SmallCopy]


def condition() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def predicted(control: Control, base: Base, *, strength: float = 1.0, timestep: int = 700) -> Tensor:
    inputs = make_inputs(base.unet, size=(8, 8)) | {"timestep": torch.tensor(timestep)}
    signal: Signal | None = None
    if strength:
        signal = control.signal(**inputs, hint=control.encode(condition())).scaled(strength)
    return control.wrap(base.denoiser).predict(**inputs, signal=signal)


@torch.no_grad()
def unsteered(base: Base, timestep: int = 700) -> Tensor:
    return base.denoiser.predict(**(make_inputs(base.unet, size=(8, 8)) | {"timestep": torch.tensor(timestep)}))


def made(way: type[Control], base: Base, **settings: Any) -> Control:
    torch.manual_seed(0)
    return way.from_base(base, **settings).eval()


@pytest.mark.parametrize("way", [Concatenated, ControlLora, SmallCopy, UnlockedControlNet])
def test_what_begins_with_zeros_changes_nothing_before_training(way: type[Control]) -> None:
    base = make_training_base()
    assert torch.equal(predicted(made(way, base), base), unsteered(base))


@pytest.mark.parametrize("way", [Adapter, EdgeGuidance])
def test_what_does_not_begin_with_zeros_changes_something_before_training(way: type[Control]) -> None:
    base = make_training_base()
    assert not torch.equal(predicted(made(way, base), base), unsteered(base))


@pytest.mark.parametrize("way", WAYS)
def test_a_trained_one_steers_and_comes_back_from_disk(way: type[Control], tmp_path: Path) -> None:
    base = make_training_base()
    control = made(way, base)
    control.check_fits(base)
    randomize(control)
    found = predicted(control, base)
    assert not torch.allclose(found, unsteered(base))
    control.save(tmp_path / "control")
    again = load_control(tmp_path / "control", base=base)
    assert type(again) is way
    assert torch.equal(predicted(again, base), found)


@pytest.mark.parametrize("way", LOCKED)
def test_a_locked_base_without_its_control_is_the_base_after_training_too(way: type[Control]) -> None:
    base = make_training_base()
    control = made(way, base)
    randomize(control)
    before = unsteered(base)
    assert torch.equal(predicted(control, base, strength=0.0), before)
    assert torch.equal(unsteered(base), before)  # no hook is left behind


@pytest.mark.parametrize("way", [Concatenated, UnlockedControlNet])
def test_an_unlocked_base_is_another_after_training_without_its_control_too(way: type[Control]) -> None:
    base = make_training_base()
    control = made(way, base)
    randomize(control)
    assert not torch.allclose(predicted(control, base, strength=0.0), unsteered(base))


@pytest.mark.parametrize("way", WAYS)
def test_every_parameter_is_trained_and_the_locked_base_is_not(way: type[Control]) -> None:
    base = make_training_base()
    control = way.from_base(base)
    randomize(control)  # else zeros keep gradients away at the first step
    further = {"edges": EdgeLoss(control, base)} if way is EdgeGuidance else {}
    objective = ControlObjective(base, control, further)
    inputs = make_inputs(base.unet, size=(8, 8))
    batch = Batch(inputs["latents"], condition(), Conditioning(inputs["conditioning"].tokens))
    before = objective.locked_fingerprint()
    losses, extra = objective(batch, sample_generators(0, range(2)))
    sum(extra.values(), losses.mean()).backward()
    still = [name for name, one in control.named_parameters() if one.grad is None or not one.grad.any()]
    assert still == []
    assert objective.locked_fingerprint() == before


def test_guidance_by_edges_is_over_in_the_second_half_of_the_run() -> None:
    base = make_training_base()
    control = made(EdgeGuidance, base)
    assert torch.equal(predicted(control, base, timestep=400), unsteered(base, 400))


def test_guidance_by_edges_lowers_the_error_of_the_predicted_edges() -> None:
    base = make_training_base()
    control = made(EdgeGuidance, base, scale=0.05)
    assert isinstance(control, EdgeGuidance)
    randomize(control)
    inputs = make_inputs(base.unet, size=(8, 8)) | {"timestep": torch.tensor(700)}
    wanted = control.encode(condition())

    def error(prediction: Tensor) -> float:
        """Of the edges in z_t after a small step along the prediction."""
        moved = {**inputs, "latents": inputs["latents"] - 0.2 * prediction}
        guided: Any = control.wrap(base.denoiser)
        control.train()
        with torch.no_grad():
            guided.predict(**moved)
        control.eval()
        return float((control.seen.pop() - wanted).square().mean())

    assert error(predicted(control, base)) < error(unsteered(base))


def test_the_small_copy_is_small() -> None:
    base = make_training_base(widths=(32, 64))
    control = made(SmallCopy, base)
    without_hint = sum(p.numel() for name, p in control.named_parameters() if not name.startswith("hint"))
    assert without_hint < 0.3 * sum(p.numel() for p in base.unet.parameters())
