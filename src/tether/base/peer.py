"""A base as diffusers' pipeline, for what only diffusers has, and to compare with it."""

from __future__ import annotations

from typing import Any

from tether.base.base import Base

__all__ = ["diffusers_pipeline"]


def diffusers_pipeline(base: Base) -> Any:
    """diffusers' pipeline around the base's own networks, which are not copied, with DDIM as its scheduler."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    known = DDIMScheduler().config.keys()
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": DDIMScheduler(**{k: v for k, v in base.noise_schedule.items() if k in known and k[0] != "_"}),
    }
    if base.text_encoder_2 is not None:
        parts |= {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2}
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(
        **parts,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
