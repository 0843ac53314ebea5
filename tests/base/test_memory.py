"""Less memory changes how an image is generated, not the image."""

from __future__ import annotations

import numpy as np
import torch

import tether
from tether.base import Base
from tether.base.memory import OneAtATime, reduce_memory, slice_attention


def draw(base: Base) -> np.ndarray:
    return np.asarray(tether.Pipeline(base)("a red cube", seed=3, steps=3)[0], float)


def test_the_image_stays_the_same(tiny_base: Base) -> None:
    before = draw(tiny_base)
    assert np.abs(draw(reduce_memory(tiny_base)) - before).max() <= 1
    assert tiny_base.vae.use_tiling
    assert tiny_base.execution_device is None


def test_sliced_attention_gives_the_same_noise(tiny_base: Base) -> None:
    inputs = torch.randn(1, 4, 8, 8), torch.tensor(5), tiny_base.encode_prompts(["x"]).tokens
    before = tiny_base.unet(*inputs).sample
    slice_attention(tiny_base.unet)
    torch.testing.assert_close(tiny_base.unet(*inputs).sample, before, rtol=1e-4, atol=1e-5)


def test_only_the_network_at_work_is_on_the_device(tiny_base: Base) -> None:
    before = draw(tiny_base)
    moves: list[tuple[str, str]] = []
    for part in tiny_base.modules():
        name, move = type(part).__name__, part.to
        part.to = lambda where, name=name, move=move: moves.append((name, str(where))) or move("cpu")  # type: ignore
    reduce_memory(tiny_base, torch.device("cpu", 0))
    assert tiny_base.device == torch.device("cpu", 0)
    assert isinstance(tiny_base.unet._hf_hook, OneAtATime)
    assert np.abs(draw(tiny_base) - before).max() <= 1
    there = [name for name, where in moves if where == "cpu:0"]
    decoding = there.index("AutoencoderKL")  # once, or for each part of decoding, by version of diffusers
    assert there[0] == "CLIPTextModel"
    assert set(there[1:decoding]) == {"UNet2DConditionModel"}
    assert set(there[decoding:]) == {"AutoencoderKL"}
    first_unet = moves.index(("UNet2DConditionModel", "cpu:0"))
    assert ("CLIPTextModel", "cpu") in moves[:first_unet]


def test_the_shallow_part_of_a_network_that_is_moved_when_needed_is_its_own(tiny_base: Base) -> None:
    """accelerate's hook holds the whole network's `forward`; a copy that kept it would run all of it."""

    def shallow(base: Base) -> torch.Tensor:
        inputs = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(5)
        text = base.encode_prompts(["x"])
        split = base.denoiser.split(1)
        _, deep = split.predict_whole(*inputs, text, None)
        return split.predict_shallow(*inputs, text, None, 2 * deep)

    before = shallow(tiny_base)
    reduce_memory(tiny_base, torch.device("cpu", 0))
    assert isinstance(tiny_base.unet._hf_hook, OneAtATime)
    torch.testing.assert_close(shallow(tiny_base), before, rtol=1e-4, atol=1e-5)
