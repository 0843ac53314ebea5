"""The families of Stable Diffusion are recognized by their config."""

from __future__ import annotations

from typing import Any

import pytest

from tether.formats.families import describe, family_of_config, family_settings, short_name

# The settings of the config.json of the published diffusers repositories, reduced to what differs.
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"cross_attention_dim": 768}, "sd1"),
    ({"cross_attention_dim": 1024}, "sd2"),
    ({"cross_attention_dim": 2048, "addition_embed_type": "text_time"}, "sdxl"),
    ({"cross_attention_dim": 2048}, "custom"),
    ({"cross_attention_dim": 256, "addition_embed_type": "text"}, "custom"),
    ({"cross_attention_dim": [768, 768]}, "custom"),
    ({}, "custom"),
]


FORMER = dict.fromkeys(("sd1", "sd2"), ("former_timestep_spacing",))
"""XL's spacing is what it was."""


@pytest.mark.parametrize(("config", "family"), CONFIGS)
def test_a_config_has_one_family(config: dict[str, Any], family: str) -> None:
    assert family_of_config(config) == family


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_is_the_same_for_a_family_comes_fresh_each_time(family: str) -> None:
    settings = family_settings(family)
    assert settings.keys() == {"words", "unet", "vae", "scheduler", "index", *FORMER.get(family, ())}
    settings["unet"].clear()
    assert family_settings(family)["unet"]
    assert describe(family, 5).startswith(family_settings(family)["words"])


def test_families_are_named_for_messages() -> None:
    assert describe("sd1", 768) == "Stable Diffusion 1.x (768-wide text states)"
    assert [short_name(width) for width in (768, 1024, 2048, 256, None)] == ["SD 1.x", "SD 2.x", "SDXL", None, None]
