"""Sizes that no network has are refused by the name of the setting; those of all published networks are not."""

from __future__ import annotations

from typing import Any

import pytest

from tether.errors import TetherError
from tether.formats.measures import check_measures

from ..reference.layouts import EXPECTED_UNET


@pytest.mark.parametrize("family", EXPECTED_UNET)
def test_the_published_networks_are_within_the_limits(family: str) -> None:
    check_measures(EXPECTED_UNET[family] | {"layers_per_block": 2, "sample_size": 128}, "it")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000, above the limit"),
        ({"block_out_channels": [10**9] * 4}, "block_out_channels is"),
        ({"block_out_channels": [8] * 10**6}, "block_out_channels is"),
        ({"transformer_layers_per_block": [[10**9], [1]]}, "transformer_layers_per_block is"),
        ({"hidden_size": {"a": [2**30]}}, "hidden_size is"),
        (
            {"block_out_channels": [8] * 3, "layers_per_block": 50, "transformer_layers_per_block": 50},
            "3 levels of 50 x 50 layers is too many",
        ),
    ],
)
def test_sizes_of_no_network_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=f"it has an invalid config: {message}") as caught:
        check_measures(config, "it")
    assert len(str(caught.value)) < 200


def test_words_and_missing_values_have_no_size() -> None:
    check_measures({"act_fn": "silu", "class_embed_type": None, "clip_sample": True, "levels": []}, "it")
