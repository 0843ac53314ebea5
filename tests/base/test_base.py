"""A base as an object: moving and casting."""

from __future__ import annotations

import logging

import pytest
import torch

import tether


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
