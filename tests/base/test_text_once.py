"""What is made of the text alone is made once, and is the same to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tether.base.denoiser import UNetDenoiser
from tether.base.noise import noise_process
from tether.base.text_once import text_once
from tether.control import Conditioning

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet


class Counted:
    """Counts the products of one projection of the text."""

    def __init__(self, unet: Any) -> None:
        self.products = 0
        layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
        forward = type(layer).forward

        def counted(text: Any) -> Any:
            self.products += 1
            return forward(layer, text)

        layer.forward = counted


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}])
def test_keys_and_values_of_a_text_are_made_once_and_predictions_stay_the_same(changes: dict[str, Any]) -> None:
    unet = make_unet("sd1", **changes)
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    inputs = make_inputs(unet)
    other = Conditioning(inputs["conditioning"].tokens + 1)
    given = [inputs | {"timestep": t, "conditioning": text} for text in (inputs["conditioning"], other) for t in (9, 5)]
    expected = [denoiser.predict(**one) for one in given]
    counted = Counted(unet)
    before = {name: module.forward for name, module in unet.named_modules() if name.endswith("to_k")}
    with text_once([unet]):
        found = [denoiser.predict(**one) for one in given]
    assert all(torch.equal(one, theirs) for one, theirs in zip(found, expected, strict=True))
    assert counted.products == 2
    assert all(module.forward == before[name] for name, module in unet.named_modules() if name.endswith("to_k"))


@torch.no_grad()
def test_weights_may_change_between_two_runs() -> None:
    unet: Any = make_unet("sd1")
    denoiser, inputs = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE)), make_inputs(unet)
    with text_once([unet]):
        denoiser.predict(**inputs)
    unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.mul_(2)
    with text_once([unet]), text_once([unet]):
        found = denoiser.predict(**inputs)
    assert torch.equal(found, denoiser.predict(**inputs))
