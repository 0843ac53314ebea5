"""Depth by any depth estimation model of transformers, as nearness: 1 is the nearest point, 0 the farthest.

Models of relative depth (MiDaS, DPT, Depth Anything) and Depth Pro, whose output is an inverse depth, give something
that grows towards the viewer; models of meters (ZoeDepth, GLPN, metric Depth Anything, DPT on DINOv2) give distances d,
of which 1/d is taken.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from tether.detectors.pretrained import opened, prepared
from tether.errors import TetherError

__all__ = ["nearness"]

METERS = ("zoedepth", "glpn")
"""Types of model that give distances; the others say so in their config, where they do."""
LEAST = 1e-3
"""Of a distance, in meters, and of what counts as a range of depth."""


def nearness(pixels: np.ndarray) -> np.ndarray:
    """Nearness of uint8 `(H, W, 3)` RGB: float32 `(H, W)` in [0, 1]; 0 everywhere for an image without depth.

    Raises:
        TetherError: when there is no model, or it gives no depth.
    """
    if np.ptp(pixels, axis=(0, 1)).max() == 0:
        return np.zeros(pixels.shape[:2], np.float32)
    model, settings = opened("depth", "AutoModelForDepthEstimation")
    with torch.inference_mode():
        found = model(pixel_values=prepared(pixels, settings)).predicted_depth[0].float().squeeze()
    values = found.numpy()
    if values.ndim != 2 or not np.isfinite(values).all():
        raise TetherError("the depth model gave no depth: NaN, Inf, or another shape than (H, W)")
    if _gives_meters(model.config):
        values = 1 / np.maximum(values, LEAST)
    values = cv2.resize(values, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
    low, high = float(values.min()), float(values.max())
    if high - low <= LEAST * max(abs(low), abs(high)):
        return np.zeros(pixels.shape[:2], np.float32)
    return (values - low) / (high - low)


def _gives_meters(config: Any) -> bool:
    """Whether a model of a config gives distances. DPT's on DINOv2 (`dpt-dinov2-*-nyu`, `-kitti`) says nothing."""
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", None)
    return (
        config.model_type in METERS
        or (config.model_type == "dpt" and backbone == "dinov2")
        or getattr(config, "depth_estimation_type", "relative") == "metric"
    )
