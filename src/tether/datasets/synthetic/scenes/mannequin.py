"""Mannequins: a skeleton of 18 joints in a named pose, covered with capsules.

Joints are in the order of OpenPose's 18 body keypoints: nose, neck, right shoulder, elbow, wrist, left shoulder, elbow,
wrist, right hip, knee, ankle, left hip, knee, ankle, right eye, left eye, right ear, left ear. "Right" is the
mannequin's own right, which is on the left of the image when it faces the camera.
"""

from __future__ import annotations

import numpy as np

from tether.datasets.synthetic.scenes.solids import Capsule, Solid, Sphere
from tether.datasets.synthetic.scenes.spec import MannequinSpec

__all__ = ["JOINTS", "POSES", "joints", "limbs"]

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)

# Per limb two angles in degrees: `out`, away from hanging down, sideways; `ahead`, away from hanging down, forward.
# Arms: (upper out, upper ahead, fore out, fore ahead), right then left; legs the same with thigh and shin.
POSES: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "standing": {"ra": (12, 0, 8, 6), "la": (12, 0, 8, 6), "rl": (5, 0, 3, 0), "ll": (5, 0, 3, 0)},
    "walking": {"ra": (10, 30, 6, 45), "la": (10, -28, 6, -10), "rl": (3, -24, 2, -38), "ll": (3, 26, 2, 10)},
    "running": {"ra": (12, 55, 4, 125), "la": (12, -50, 6, 30), "rl": (3, -30, 2, -85), "ll": (3, 60, 2, -15)},
    "waving": {"ra": (100, 0, 168, 0), "la": (12, 0, 8, 6), "rl": (6, 0, 4, 0), "ll": (6, 0, 4, 0)},
    "raising both arms": {"ra": (150, 0, 166, 0), "la": (150, 0, 166, 0), "rl": (7, 0, 5, 0), "ll": (7, 0, 5, 0)},
    "in a t-pose": {"ra": (90, 0, 90, 0), "la": (90, 0, 90, 0), "rl": (6, 0, 4, 0), "ll": (6, 0, 4, 0)},
    "with hands on hips": {"ra": (50, 0, -42, 6), "la": (50, 0, -42, 6), "rl": (8, 0, 6, 0), "ll": (8, 0, 6, 0)},
    "doing a star jump": {"ra": (128, 0, 132, 0), "la": (128, 0, 132, 0), "rl": (34, 0, 32, 0), "ll": (34, 0, 32, 0)},
    "sitting": {"ra": (12, 20, 4, 70), "la": (12, 20, 4, 70), "rl": (10, 84, 5, 4), "ll": (10, 84, 5, 4)},
}
"""Named poses; each name reads well after "a red mannequin"."""

UPPER_ARM, FORE_ARM, THIGH, SHIN, TORSO, NECK = 0.17, 0.16, 0.24, 0.235, 0.30, 0.03
HEAD = 0.078


def _direction(angles: np.ndarray, side: float) -> np.ndarray:
    """A unit vector that hangs down at 0, 0; `side` is -1 for the mannequin's right in its own frame."""
    o, a = np.radians(angles)
    return np.array([side * np.sin(o) * np.cos(a), -np.cos(o) * np.cos(a), -np.sin(a)])


def joints(spec: MannequinSpec) -> np.ndarray:
    """World positions of the 18 joints, float32 `(18, 3)`; the lowest ankle stands on the floor."""
    rng = np.random.default_rng(spec.jitter)
    pose = {limb: np.array(angles) + rng.uniform(-6, 6, 4) for limb, angles in POSES[spec.pose].items()}
    p = np.zeros((18, 3))
    p[1] = (0, TORSO, 0)
    p[0] = p[1] + (0, NECK + HEAD, -HEAD)
    for k, (side, arm, leg) in enumerate(((-1, "ra", "rl"), (1, "la", "ll"))):
        shoulder, hip = 2 + 3 * k, 8 + 3 * k
        p[shoulder] = p[1] + (side * 0.098, -0.02, 0)
        p[shoulder + 1] = p[shoulder] + UPPER_ARM * _direction(pose[arm][:2], side)
        p[shoulder + 2] = p[shoulder + 1] + FORE_ARM * _direction(pose[arm][2:], side)
        p[hip] = (side * 0.062, 0, 0)
        p[hip + 1] = p[hip] + THIGH * _direction(pose[leg][:2], side)
        p[hip + 2] = p[hip + 1] + SHIN * _direction(pose[leg][2:], side)
        p[14 + k] = p[1] + (side * 0.03, NECK + HEAD + 0.02, -0.066)
        p[16 + k] = p[1] + (side * 0.074, NECK + HEAD, 0)
    p[:, 1] -= min(p[10, 1], p[13, 1], -0.12 if spec.pose == "sitting" else np.inf) - 0.035
    c, s = np.cos(spec.yaw), np.sin(spec.yaw)
    # In its own frame the mannequin looks along -z, to the camera, so its right hand (-1) is on the left of the image.
    p = p @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return (p * spec.height + (spec.x, 0, spec.z)).astype(np.float32)


def limbs(spec: MannequinSpec) -> list[Solid]:
    """The solids that make up the mannequin."""
    p, h = joints(spec), spec.height
    bones = [(2, 3, 0.032), (3, 4, 0.027), (5, 6, 0.032), (6, 7, 0.027)]
    bones += [(8, 9, 0.044), (9, 10, 0.035), (11, 12, 0.044), (12, 13, 0.035), (2, 5, 0.045)]
    parts: list[Solid] = [Capsule(p[a], p[b], r * h) for a, b, r in bones]
    hips, chest = (p[8] + p[11]) / 2, p[1] - np.array([0, 0.08 * h, 0], np.float32)
    parts.append(Capsule(hips, chest, 0.082 * h))
    parts.append(Sphere(p[1] + np.array([0, (NECK + HEAD) * h, 0], np.float32), HEAD * h))
    return parts
