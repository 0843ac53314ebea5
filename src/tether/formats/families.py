"""The families of Stable Diffusion: their names, what is the same for all models of one, and what their files hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "BASE_PREFIXES",
    "DROPPED",
    "FAMILY_WORDS",
    "LAST_OF_SD2",
    "UNET",
    "UNUSED",
    "UNUSED_IN_SD2",
    "VAE",
    "FamilyName",
    "describe",
    "family_of_config",
    "family_settings",
    "short_name",
]

FamilyName = Literal["sd1", "sd2", "sdxl"]

FAMILY_WORDS = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "bundled": "Tether's own base",
    "custom": "a custom latent diffusion model",
}
SHORT_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text states -> the family that has it."""

UNET, VAE = "model.diffusion_model.", "first_stage_model."
"""Prefixes of the denoiser's and the autoencoder's tensors in the original layout."""

BASE_PREFIXES = (UNET, VAE, "cond_stage_model.", "conditioner.", "model_ema.")
"""Prefixes of all tensors of a base in the original layout."""

LAST_OF_SD2 = 24
"""Layers of SD 2.x's text encoder. The last one is not used."""

DROPPED = (
    (r"model_ema\..*", "the running average of the denoiser (EMA)"),
    (r"first_stage_model\.loss\..*", "the autoencoder's training loss"),
    (r"first_stage_model\.model_ema\..*", "the running average of the autoencoder"),
    (r"control_model\..*", "a ControlNet"),
    (
        r"(cond_stage_model|conditioner\.embedders\.\d)\..*\b(vision_model|visual_projection|visual)\..*",
        "CLIP's vision half",
    ),
    (r"conditioner\.embedders\.1\.model\.text_projection\.weight", "a second copy of CLIP's projection"),
)
"""(pattern, description) of tensors that are left out, with a note."""

UNUSED = re.compile(
    r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_alphas_cumprod|posterior_.*|lvlb_weights|logvar|scale_factor"
    r"|denoiser\.sigmas|v_pred|ztsnr"
    r"|.*\.logit_scale|.*\.position_ids|.*\.attn_mask"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.(transformer\.)?text_projection(\.weight)?"
)
"""Names of tensors of the original layout that no network uses. Converting a base keeps them."""

UNUSED_IN_SD2 = re.compile(r"cond_stage_model\.model\.(text_projection|transformer\.resblocks\.\d+\..*)")
"""The same for SD 2.x: the last layer and the projection of its text encoder."""


def family_settings(family: str) -> dict[str, Any]:
    """What is the same for all models of "sd1", "sd2" or "sdxl": "unet", "vae", "scheduler", "index", "words"."""
    return json.loads((Path(__file__).parent / "configs" / f"{family}.json").read_text())


def family_of_config(config: Mapping[str, Any]) -> str:
    """The family of a denoiser or a ControlNet by its `config.json`: a key of `FAMILY_WORDS`."""
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    width = config.get("cross_attention_dim")
    family = TEXT_WIDTHS.get(width, "custom") if isinstance(width, int) else "custom"
    return "custom" if family == "sdxl" else family


def short_name(text_width: object) -> str | None:
    """The family with text states of this width, in short: 768 -> "SD 1.x"; None if no family has it."""
    return SHORT_NAMES[TEXT_WIDTHS[text_width]] if isinstance(text_width, int) and text_width in TEXT_WIDTHS else None


def describe(family: str, text_width: object) -> str:
    """A family for messages: "Stable Diffusion 1.x (768-wide text states)"."""
    return f"{FAMILY_WORDS[family]} ({text_width}-wide text states)"
