"""The variants of the paper's ablation: what they add before training, and what they are on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.base import Base
from tether.control import load_control
from tether.control.control import Control
from tether.control.controlnet import ControlNet
from tether.control.zero import ZeroConv2d
from tether.studies.variants import ControlNetLite, GaussianControlNet

from ..tiny import make_inputs, make_training_base, randomize


def signal_of(control: Control, base: Base) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(control.signal(**make_inputs(base.unet, size=(8, 8)), hint=hint_of(control)))


def hint_of(control: Control) -> torch.Tensor:
    return control.encode(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("variant", [ControlNet, ControlNetLite])
def test_with_zero_convolutions_nothing_is_added_before_training(variant: type[Control]) -> None:
    base = make_training_base()
    signal = signal_of(variant.from_base(base), base)
    assert signal
    assert all(not tensor.any() for tensor in signal.values())


def test_with_gaussian_ones_something_is_added_at_every_point() -> None:
    base = make_training_base()
    signal = signal_of(GaussianControlNet.from_base(base), base)
    assert all(tensor.abs().max() > 1e-3 for tensor in signal.values())


def test_gaussian_convolutions_have_the_variance_of_one_by_fan_in() -> None:
    control = GaussianControlNet.from_base(make_training_base(widths=(16, 32)))
    zeros = [module for module in control.modules() if isinstance(module, ZeroConv2d)]
    scaled = torch.cat([zero.weight.flatten() * zero.weight[0].numel() ** 0.5 for zero in zeros])
    assert scaled.std().item() == pytest.approx(1, abs=0.05)
    assert all(not zero.bias.any() for zero in zeros if zero.bias is not None)


def test_a_gaussian_one_is_saved_as_an_ordinary_controlnet(tmp_path: Path) -> None:
    control = GaussianControlNet.from_base(make_training_base())
    control.save(tmp_path / "control")
    again = load_control(tmp_path / "control")
    assert type(again) is ControlNet
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), control.parameters(), strict=True))


def test_the_lite_one_has_the_points_of_the_base_and_comes_back_from_disk(tmp_path: Path) -> None:
    base = make_training_base()
    control = ControlNetLite.from_base(base)
    control.check_fits(base)
    assert set(control.points) == set(ControlNet.from_base(base).points)
    randomize(control)
    control.save(tmp_path / "control")
    again = load_control(tmp_path / "control")
    assert type(again) is ControlNetLite
    ours, theirs = signal_of(control, base), signal_of(again, base)
    assert all(tensor.any() for tensor in ours.values())
    assert all(torch.equal(ours[point], theirs[point]) for point in ours | theirs)


def test_the_lite_one_learns() -> None:
    base = make_training_base()
    control = ControlNetLite.from_base(base)
    inputs = make_inputs(base.unet, size=(8, 8))
    for _ in range(2):  # at the first step the zero convolutions alone have a gradient
        control.zero_grad()
        signal = control.signal(**inputs, hint=hint_of(control))
        base.denoiser.predict(**inputs, signal=signal).square().mean().backward()
        with torch.no_grad():
            for parameter in control.parameters():
                if parameter.grad is not None:
                    parameter -= parameter.grad
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in control.blocks.parameters())
