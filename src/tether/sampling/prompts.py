"""Prompts -> `Guidance`: the encoded text of both CFG branches."""

from __future__ import annotations

import torch

from tether.base import Base
from tether.base.prompt_syntax import PromptSyntax
from tether.control.conditioning import Conditioning
from tether.errors import TetherError
from tether.sampling.guidance import Guidance
from tether.sampling.request import Request

__all__ = ["guidance_of"]


def guidance_of(request: Request, base: Base, size: tuple[int, int], *, syntax: PromptSyntax | None = None) -> Guidance:
    """Encodes a request's prompts, the same for every image of its batch.

    Args:
        request: prompts, `guidance_scale`, `clip_skip`, `count` and `rules` matter.
        base: encodes the text.
        size: width and height of the images in pixels, for bases that are conditioned on it (SDXL).
        syntax: how prompts are read; by default as the request's rules say.

    Raises:
        TetherError: when a prompt cannot be read, `clip_skip` leaves no layer, or the base's text encoder does not give
            what it needs.
    """
    distilled = base.denoiser.spec.distilled_guidance
    guided = request.guidance_scale > 1 or (request.rules > 1 and request.guidance_scale != 1)
    guided = guided and not distilled
    texts = [request.negative_prompt, request.prompt] if guided else [request.prompt]
    syntax = syntax or ("nested" if request.rules > 1 else "simple")
    encoded = base.encode_prompts(texts, request.clip_skip, syntax=syntax)
    rows = [encoded.row(k, request.count) for k in range(len(texts))]
    if guided and not request.negative_prompt and base.zero_empty_negative:
        rows[0] = rows[0].zeros()
    rows = [_with_size(row, base, size) for row in rows]
    if distilled:
        scale = torch.full((request.count,), request.guidance_scale, device=base.device)
        rows = [row.with_extras(guidance_scale=scale) for row in rows]
    return Guidance(rows[-1], rows[0] if guided else None, request.guidance_scale, request.guidance_rescale)


def _with_size(conditioning: Conditioning, base: Base, size: tuple[int, int]) -> Conditioning:
    """With SDXL's original size, crop corner and target size (arXiv:2307.01952), for bases that take them."""
    if not base.denoiser.spec.uses_sizes:
        return Conditioning(conditioning.tokens)
    if conditioning.pooled is None:
        raise TetherError(f"{base.name} needs pooled text states, which its text encoder does not give")
    width, height = size
    ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=base.dtype, device=base.device)
    return conditioning.with_extras(time_ids=ids.expand(len(conditioning), -1))
