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
