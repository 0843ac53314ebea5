"""A base as an object: moving and casting."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

import tether
from tether.base import Base


def test_casting_reaches_every_network_and_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("diffusers").addHandler(caplog.handler)  # diffusers' records do not reach the root
    try:
        base = tether.load_base().to(device="cpu", dtype=torch.bfloat16)
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert {module.dtype for module in base.modules()} == {torch.bfloat16}
    assert caplog.text == ""


def test_a_network_without_values_is_left_where_it_is() -> None:
    base = tether.load_base()
    base.vae.to("meta")
    base.to("cpu")
    assert [module.device.type for module in base.modules()] == ["cpu", "meta", "cpu"]


def test_the_denoiser_and_the_noise_process_are_made_once_and_follow_what_they_are_of(tiny_base: Base) -> None:
    denoiser, noise = tiny_base.denoiser, tiny_base.noise
    assert tiny_base.denoiser is denoiser
    assert tiny_base.noise is noise
    assert denoiser.spec.noise is noise
    tiny_base.noise_schedule = tiny_base.noise_schedule | {"prediction_type": "v_prediction"}
    assert tiny_base.prediction_type == tiny_base.denoiser.spec.noise.prediction_type == "v_prediction"
    tiny_base.unet = copy.deepcopy(tiny_base.unet)
    assert tiny_base.denoiser.network is tiny_base.unet


def overflowing(base: Base, coder: str) -> None:
    """Scales the inner activations of an autoencoder's coder beyond float16; its last norm takes any scale away."""
    first = getattr(base.vae, coder).conv_in
    with torch.no_grad():
        first.weight *= 2.0**15
        first.bias *= 2.0**15


@pytest.mark.parametrize("training", [False, True], ids=["alone", "in training's autocast"])
@pytest.mark.parametrize("coder", ["decoder", "encoder"])
def test_a_float16_autoencoder_that_overflows_computes_again_in_float32(
    coder: str, training: bool, tiny_base: Base
) -> None:
    overflowing(tiny_base, coder)
    pixels, latents = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 8, 8)

    def call(base: Base) -> torch.Tensor:
        return base.decode_latents(latents) if coder == "decoder" else base.encode_images(pixels)

    tiny_base.vae.to(torch.float16)
    weights = {name: tensor.clone() for name, tensor in tiny_base.vae.state_dict().items()}
    with torch.autocast("cpu", torch.float16, enabled=training):
        found = call(tiny_base)
    assert tiny_base.vae.dtype == torch.float16
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny_base.vae.state_dict().items())
    tiny_base.vae.to(torch.float32)
    assert found.isfinite().all()
    torch.testing.assert_close(found, call(tiny_base), rtol=1e-3, atol=1e-3)


def test_what_is_not_finite_before_decoding_is_not_decoded_again(tiny_base: Base) -> None:
    tiny_base.vae.to(torch.float16)
    assert tiny_base.decode_latents(torch.full((1, 4, 8, 8), float("nan"))).isnan().any()
