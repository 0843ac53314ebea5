"""Squares of an image, turned upright: what a network sees, and where its points are in the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["Square"]


@dataclass(frozen=True)
class Square:
    """A square of an image in pixels.

    Attributes:
        x, y: its center.
        side: its side.
        angle: by how much it is turned clockwise, in radians.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @staticmethod
    def between(center: np.ndarray, end: np.ndarray, upright: float = 90.0) -> Square:
        """Around a center, as far as `end`; turned so that `end` lies in the direction `upright`, in degrees.

        90 is up, 0 is right.
        """
        dx, dy = float(end[0] - center[0]), float(end[1] - center[1])
        angle = math.radians(upright) - math.atan2(-dy, dx)
        return Square(float(center[0]), float(center[1]), 2 * math.hypot(dx, dy), angle)

    def scaled(self, factor: float, up: float = 0.0) -> Square:
        """Larger by a factor, and moved by a share of its side, before that, to its own top."""
        shift = up * self.side
        x = self.x + shift * math.sin(self.angle)
        y = self.y - shift * math.cos(self.angle)
        return Square(x, y, self.side * factor, self.angle)

    def cut(self, image: np.ndarray, size: int) -> Tensor:
        """What is in it of uint8 `(H, W, 3)`: float32 `(1, 3, size, size)` in [0, 1]; black outside of the image."""
        ratio = self.side / size
        shrink = min(1.0, 1.5 / ratio)  # reduced by area first, so that no pixel is skipped
        if shrink < 1:
            new = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
            scale = np.array([new[0] / image.shape[1], new[1] / image.shape[0]])
            image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
        else:
            scale = np.ones(2)
        corners = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
        there = (self.points(corners) * scale - 0.5).astype(np.float32)
        matrix = cv2.getAffineTransform(corners * size - 0.5, there)
        cut = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 255

    def points(self, inside: np.ndarray) -> np.ndarray:
        """Points `(N, 2)` as shares of the square -> pixels of the image."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        x, y = ((inside - 0.5) * self.side).T
        return np.stack([cosine * x - sine * y + self.x, sine * x + cosine * y + self.y], axis=1)
