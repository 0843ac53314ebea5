"""The two parts of a U-Net, and the shallow part of a control."""

from __future__ import annotations

import pytest
import torch

from tether.base.deep import SplitDenoiser
from tether.base.denoiser import UNetDenoiser
from tether.base.noise import noise_process
from tether.control import ControlNet
from tether.control.architecture import skip_channels
from tether.errors import TetherError

from ..tiny import FAMILIES, NOISE_SCHEDULE, make_inputs, make_unet, randomize


def denoiser_of(family: str) -> UNetDenoiser:
    return UNetDenoiser(make_unet(family), noise_process(NOISE_SCHEDULE))


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "inpainting"])
def test_with_the_deep_features_of_the_same_step_the_shallow_part_predicts_what_the_whole_does(family: str) -> None:
    denoiser = denoiser_of(family)
    control = ControlNet.from_unet(denoiser.network, hint_channels=(4, 4, 8, 8)).eval()
    randomize(control)
    inputs = make_inputs(denoiser.network)
    signal = control(**inputs, hint=control.encode(torch.rand(1, 3, 128, 64)))
    plain = denoiser.predict(**inputs, signal=signal)
    for skips in range(1, len(skip_channels(denoiser.network))):
        split = SplitDenoiser(denoiser, skips)
        whole, deep = split.predict_whole(**inputs, signal=signal)
        shallow = control.shallow(skips)(**inputs, hint=control.encode(torch.rand(1, 3, 128, 64)))
        assert list(shallow) == list(signal)[:skips]
        found = split.predict_shallow(**inputs, signal=signal.first_skips(skips), deep=deep)
        assert torch.equal(whole, plain)
        assert torch.equal(found, plain)
        assert not torch.equal(split.predict_shallow(**inputs, signal=shallow, deep=deep), plain)


@torch.no_grad()
def test_a_size_that_is_no_multiple_of_the_scale_is_split_too() -> None:
    denoiser = denoiser_of("sd1")
    inputs = make_inputs(denoiser.network, size=(10, 6))
    for skips in (1, 4, 7):
        split = SplitDenoiser(denoiser, skips)
        whole, deep = split.predict_whole(**inputs, signal=None)
        assert torch.equal(split.predict_shallow(**inputs, signal=None, deep=deep), whole)


@torch.no_grad()
def test_the_shallow_part_of_a_control_gives_its_first_tensors_to_the_bit() -> None:
    unet = make_unet("sdxl")
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8)).eval()
    randomize(control)
    inputs = make_inputs(unet) | {"hint": control.encode(torch.rand(1, 3, 128, 64))}
    whole = control(**inputs)
    for skips in range(1, len(whole) - 1):
        for name, tensor in control.shallow(skips)(**inputs).items():
            assert torch.equal(tensor, whole[name])
    assert control(**inputs).keys() == whole.keys()


def test_a_split_below_the_deepest_skip_connection_is_refused() -> None:
    for skips in (0, 6):
        with pytest.raises(TetherError, match=f"deep_skips is {skips}; this base has from 1 to 5"):
            SplitDenoiser(denoiser_of("bundled"), skips)
