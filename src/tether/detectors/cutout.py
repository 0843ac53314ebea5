"""The main object of an image, by U²-Net small (Qin et al., "U²-Net: Going deeper with nested U-structure for salient
object detection", arXiv:2005.09007), whose weights are shipped.

    x -> 320 x 320, of its brightest level, less the mean and by the deviation of ImageNet -> p in [0, 1]
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from tether.detectors.graph import shipped_network

__all__ = ["object_mask"]

SIDE = 320
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SURE = 0.5
"""With no pixel as probable as this, nothing stands out."""


def object_mask(pixels: np.ndarray) -> np.ndarray:
    """The mask of uint8 `(H, W, 3)` RGB: uint8 `(H, W)`, 255 on the object; 0 everywhere when nothing stands out."""
    height, width = pixels.shape[:2]
    if np.ptp(pixels, axis=(0, 1)).max() < 8:  # the network finds something even in nothing
        return np.zeros((height, width), np.uint8)
    small = cv2.resize(np.ascontiguousarray(pixels), (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    x = (small / max(1.0, float(small.max())) - np.asarray(MEAN, np.float32)) / np.asarray(DEVIATION, np.float32)
    (found,) = shipped_network("u2netp")(torch.from_numpy(x).permute(2, 0, 1)[None].float())
    probable = found[0, 0].numpy()
    if probable.max() < SURE:
        return np.zeros((height, width), np.uint8)
    enlarged = cv2.resize(probable / probable.max(), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.round(enlarged.clip(0, 1) * 255).astype(np.uint8)
