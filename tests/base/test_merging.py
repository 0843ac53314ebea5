"""Token merging: which positions are merged, and that what is alike gives what it gave."""

from __future__ import annotations

import pytest
import torch

from tether.base.denoiser import UNetDenoiser
from tether.base.merging import match, tokens_merged
from tether.base.noise import noise_process
from tether.control import ControlNet

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet, randomize


def test_the_most_alike_sources_are_merged_into_the_destination_nearest_to_them() -> None:
    x = torch.nn.functional.one_hot(torch.arange(16), 16).float()[None]
    x[0, 5] = x[0, 2] + 0.1 * x[0, 5]  # 0, 2, 8 and 10 are the destinations of 4 x 4
    x[0, 7] = x[0, 8] + 0.2 * x[0, 7]
    found = match(x, 4, 4, 2 / 16)
    assert found.source.tolist() == [[5, 7]]
    assert found.into.tolist() == [[1, 2]]
    merged = found.merge(x)
    assert merged.shape == (1, 14, 16)
    torch.testing.assert_close(
        merged[0, -4:], torch.stack([x[0, 0], (x[0, 2] + x[0, 5]) / 2, (x[0, 8] + x[0, 7]) / 2, x[0, 10]])
    )
    back = found.unmerge(merged)
    others = [k for k in range(16) if k not in (2, 5, 7, 8)]
    assert torch.equal(back[0, others], x[0, others])
    assert torch.equal(back[0, 5], back[0, 2])
    assert torch.equal(back[0, 7], back[0, 8])


@pytest.mark.parametrize(("height", "width"), [(2, 2), (5, 3), (4, 7)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_positions_that_are_all_the_same_come_back_as_they_were(height: int, width: int, share: float) -> None:
    x = torch.randn(2, 1, 6).expand(2, height * width, 6)
    found = match(x, height, width, share)
    assert found.merge(x).shape[1] == height * width - min(
        int(share * height * width), height * width - (height // 2) * (width // 2)
    )
    torch.testing.assert_close(found.unmerge(found.merge(x)), x)
    every = torch.cat([found.kept, found.source], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(height * width).expand(2, -1))


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd1", "sdxl", "bundled"])
def test_networks_merge_at_their_finest_attention_alone_and_are_as_before_afterwards(family: str) -> None:
    unet = make_unet(family)
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8)).eval()
    randomize(control)
    denoiser, inputs = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE)), make_inputs(unet)
    hint = control.encode(torch.rand(1, 3, 128, 64))
    before, signal = denoiser.predict(**inputs), control(**inputs, hint=hint)
    seen: list[int] = []
    for name, module in unet.named_modules():
        if name.endswith("attn1.to_q"):
            module.register_forward_hook(lambda _, given, out: seen.append(given[0].shape[1]))
    with tokens_merged([unet, control], 0.5, (16, 8)):
        merged = denoiser.predict(**inputs)
        assert not torch.equal(control(**inputs, hint=hint)["middle"], signal["middle"])
    finest = 128 if family == "sd1" else 32
    assert sorted(set(seen), reverse=True)[0] == finest // 2
    assert not torch.equal(merged, before)
    assert torch.equal(denoiser.predict(**inputs), before)
    with tokens_merged([unet], 0.0, (16, 8)):
        assert torch.equal(denoiser.predict(**inputs), before)
