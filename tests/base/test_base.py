"""A base as an object: moving and casting."""

from __future__ import annotations

import logging

import pytest
import torch

import tether
from tether.base.folder import _sample_size


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


@pytest.mark.parametrize(
    ("written", "says", "means"),
    [("0.2.2", 32, 64), ("0.8.1", 32, 64), ("0.8.1", 96, 96), ("0.9.0", 32, 32), (None, 32, 32)],
)
def test_old_folders_of_sd_1_were_trained_on_512_pixels(written: str | None, says: int, means: int) -> None:
    assert _sample_size({"_diffusers_version": written, "sample_size": says, "cross_attention_dim": 768}) == means
    assert _sample_size({"_diffusers_version": written, "sample_size": says, "cross_attention_dim": 32}) == says
