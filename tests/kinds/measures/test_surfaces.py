"""Errors of depth and normals, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tether.kinds.measures.surfaces import depth_error, normal_angle, scale_invariant_error


def gray(*levels: int) -> np.ndarray:
    return np.array([levels], np.uint8)[..., None].repeat(3, axis=2)


def normal(*vectors: tuple[float, float, float]) -> np.ndarray:
    unit = np.array([vectors], float)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    return np.floor((unit + 1) / 2 * 255 + 0.5).astype(np.uint8)


def test_depth_rmse_in_levels() -> None:
    assert depth_error(gray(10, 20, 30, 40), gray(10, 20, 30, 40)) == {"value": 0.0}
    assert depth_error(gray(13, 24, 0, 0), gray(10, 20, 0, 0))["value"] == pytest.approx(2.5)  # sqrt((9 + 16) / 4)


def test_the_scale_of_depth_does_not_matter_to_the_scale_invariant_error() -> None:
    assert scale_invariant_error(gray(20, 40, 80), gray(40, 80, 160))["value"] == pytest.approx(0.0)
    # d is ln 2 and 0: its deviation is ln 2 / 2
    assert scale_invariant_error(gray(20, 40), gray(10, 40))["value"] == pytest.approx(math.log(2) / 2)


def test_pixels_without_depth_are_left_out_and_a_blank_map_is_the_worst() -> None:
    assert scale_invariant_error(gray(20, 40, 0, 99), gray(10, 20, 77, 0))["value"] == pytest.approx(0.0)
    assert scale_invariant_error(gray(0, 0), gray(10, 20))["value"] == math.log(255)


def test_angles_between_normals() -> None:
    up, right, viewer, tilted = (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)
    assert normal_angle(normal(up), normal(up))["value"] == pytest.approx(0, abs=0.1)
    assert normal_angle(normal(up), normal(right))["value"] == pytest.approx(90, abs=0.5)
    assert normal_angle(normal(viewer, tilted), normal(viewer, viewer))["value"] == pytest.approx(45 / 2, abs=0.5)


def test_where_no_normal_is_wanted_none_is_compared_and_a_missing_one_is_90_degrees_off() -> None:
    none = np.zeros((1, 1, 3), np.uint8)
    wanted = np.concatenate([normal((0, 0, 1)), none], axis=1)
    found = np.concatenate([normal((0, 0, 1)), normal((1, 0, 0))], axis=1)
    assert normal_angle(found, wanted)["value"] == pytest.approx(0, abs=0.1)
    assert normal_angle(none, normal((0, 0, 1)))["value"] == 90.0
    assert normal_angle(none, none)["value"] == 0.0
