"""CLIP score (arXiv:2104.08718), with a CLIP model of the user's own.

    100 max(0, cos(image embedding, text embedding))

The model is read by transformers from a folder or the hub; none ships with the package. Pictures are resized by their
shorter side and cropped in the middle, as CLIP's own preparation does, but by areas or Lanczos's filter where CLIP's is
bicubic: scores differ a little from published ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from tether.errors import TetherError
from tether.images import fit
from tether.kinds.measures import Measure, Numbers

__all__ = ["CLIP", "ClipScore"]

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP models were trained on."""


class ClipScore:
    """CLIP scores of pictures.

    Args:
        ref: a folder, or a name on the hub, that `transformers.CLIPModel` opens.

    Raises:
        TetherError: when it cannot be opened.
    """

    def __init__(self, ref: str | Path) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        try:
            self.model: Any = CLIPModel.from_pretrained(ref, dtype=torch.float32).eval().requires_grad_(False)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(ref)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            line = (str(error).splitlines() or ["no message"])[0]
            raise TetherError(f"no CLIP model can be opened at {ref}: {line}") from None

    @torch.no_grad()
    def __call__(self, image: Image.Image, prompt: str) -> Numbers:
        """The score of a picture and a prompt."""
        config = self.model.config
        side = config.vision_config.image_size
        levels = np.asarray(fit(image.convert("RGB"), side, side), np.float32) / 255
        normal = (torch.from_numpy(levels) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        pixels = normal.permute(2, 0, 1)[None]
        length = config.text_config.max_position_embeddings
        tokens = self.tokenizer([prompt], return_tensors="pt", truncation=True, max_length=length)
        found = self.model(pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return {"value": 100 * max(0.0, float(cosine_similarity(found.image_embeds, found.text_embeds)[0]))}


CLIP = Measure("clip", "CLIP score", digits=1)
