"""Straight lines by M-LSD tiny (Gu et al., "Towards light-weight and real-time line segment detection",
arXiv:2106.00186), whose weights are shipped.

The network looks at 512 x 512 pixels, and says for each place of a grid of 256 x 256 how probably a line has its middle
there, and where its two ends are from there. A middle is a place that is more probable than its 8 neighbors.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from tether.detectors.graph import shipped_network

__all__ = ["mlsd_segments"]

SIDE, MOST = 512, 200
CENTER, ENDS = 7, slice(8, 12)
"""Channels of the network's output."""


def mlsd_segments(pixels: np.ndarray, score: float = 0.1) -> np.ndarray:
    """Segments of uint8 `(H, W, 3)` RGB: float32 `(N, 4)` of x0, y0, x1, y1 in pixels, the most probable first.

    Args:
        pixels: the image.
        score: least probability of a line.
    """
    height, width = pixels.shape[:2]
    image = cv2.resize(np.ascontiguousarray(pixels), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    x = torch.cat([x, torch.ones(1, 1, SIDE, SIDE)], dim=1) / 127.5 - 1  # a fourth channel of ones, as it was trained
    (found,) = shipped_network("mlsd")(x)
    center = torch.sigmoid(found[:, CENTER])
    center = center * (center == F.max_pool2d(center, 3, 1, 1))
    best, places = center.flatten().topk(MOST)
    places = places[best > score]
    y, x_ = places // center.shape[2], places % center.shape[2]
    ends = found[0, ENDS, y, x_].T + torch.stack([x_, y, x_, y], dim=1)
    scale = torch.tensor([width, height, width, height]) / center.shape[2]
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.minimum((ends * scale).clamp(min=0), limit).numpy()
