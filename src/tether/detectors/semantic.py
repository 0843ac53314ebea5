"""Classes of pixels by any semantic segmentation model of transformers (SegFormer, UperNet, BEiT, DPT, ...)."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from tether.detectors.pretrained import opened, prepared
from tether.errors import TetherError

__all__ = ["class_map"]


def class_map(pixels: np.ndarray, classes: int) -> np.ndarray:
    """The class of each pixel of uint8 `(H, W, 3)` RGB: int64 `(H, W)`.

    Args:
        pixels: the image.
        classes: how many classes the model must have.

    Raises:
        TetherError: when there is no model, or it has another number of classes.
    """
    model, settings = opened("seg", "AutoModelForSemanticSegmentation")
    found = model.config.num_labels
    if found != classes:
        raise TetherError(f"the model for seg has {found} classes: expected the {classes} of ADE20K")
    with torch.inference_mode():
        logits = model(pixel_values=prepared(pixels, settings)).logits[0].float().numpy()
    size = pixels.shape[1], pixels.shape[0]
    best = np.full(pixels.shape[:2], -np.inf, np.float32)
    labels = np.zeros(pixels.shape[:2], np.int64)
    for number, layer in enumerate(logits):  # one at a time: all of them at the image's size would be large
        enlarged = cv2.resize(layer, size, interpolation=cv2.INTER_LINEAR)
        better = enlarged > best
        labels[better], best[better] = number, enlarged[better]
    return labels
