"""What is the same for all models of a family, and which tensors its released files hold beside the networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tether.formats.recognize import UNET

__all__ = ["BASE_PREFIXES", "DROPPED", "LAST_OF_SD2", "UNUSED", "UNUSED_IN_SD2", "VAE", "family_settings"]

VAE = "first_stage_model."

BASE_PREFIXES = (UNET, VAE, "cond_stage_model.", "conditioner.", "model_ema.")
"""What the names of a released base's tensors begin with."""

LAST_OF_SD2 = 24
"""Layers of SD 2.x's text encoder, of which the last is not used."""

DROPPED = {
    "model_ema.": "the running average of the denoiser (EMA)",
    "first_stage_model.loss.": "the autoencoder's training loss",
    "first_stage_model.model_ema.": "the running average of the autoencoder",
    "control_model.": "a ControlNet",
}
"""Prefix -> what it is: left out, and said."""

UNUSED = re.compile(
    r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_alphas_cumprod|posterior_.*|lvlb_weights|logvar|scale_factor"
    r"|denoiser\.sigmas|v_pred|ztsnr"
    r"|.*\.logit_scale|.*\.position_ids|.*\.attn_mask"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.(transformer\.)?text_projection(\.weight)?"
)
"""Names of tensors that belong to the released layout and that nothing reads: kept when a base is converted."""

UNUSED_IN_SD2 = re.compile(r"cond_stage_model\.model\.(text_projection|transformer\.resblocks\.\d+\..*)")
"""Its text encoder's last layer and projection."""


def family_settings(family: str) -> dict[str, Any]:
    """What is the same for all models of a family: "unet", "vae", "scheduler", "index", "words"."""
    return json.loads((Path(__file__).parent / "configs" / f"{family}.json").read_text())
