"""The judge of scenes: its maps, and its error on held-out scenes, which its model card states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.datasets.synthetic.scenes import MAPS, render, sample_scene
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES
from tether.errors import TetherError
from tether.evaluation.intervals import tabulate
from tether.evaluation.judge import JUDGED, Judge, JudgeNetwork, load_judge
from tether.kinds import kind_of
from tether.kinds.measures.joints import joints_of

LIMITS = {"depth/rmse": 20, "depth/silog": 0.16, "normal/angle": 12, "seg/miou": 0.65, "openpose/pck": 0.8}
"""Worse than the numbers of the card, which are of more scenes."""


def test_its_error_on_held_out_scenes_is_small() -> None:
    rows: dict[str, list] = {}
    with_people = [seed for seed in HELD_OUT_SCENES if sample_scene(seed).mannequins][:6]
    for seed in [*with_people, *HELD_OUT_SCENES[:6]]:
        scene = render(sample_scene(seed), 128)
        for kind in JUDGED:
            found = np.asarray(load_judge().find(kind, Image.fromarray(scene.image)))
            for one in kind_of(kind).measures:
                rows.setdefault(f"{kind}/{one.key}", []).append([one.compare(found, MAPS[kind](scene))])
    for name, limit in LIMITS.items():
        kind, _, key = name.partition("/")
        (measure,) = [one for one in kind_of(kind).measures if one.key == key]
        score = measure.pool(tabulate(rows[name]))
        assert score > limit if measure.higher else score < limit, (name, score)


@pytest.mark.parametrize("size", [(128, 128), (200, 96), (64, 64)])
@pytest.mark.parametrize("kind", JUDGED)
def test_a_map_has_the_size_of_the_picture(kind: str, size: tuple[int, int]) -> None:
    found = load_judge().find(kind, Image.new("RGB", size, "white"))
    assert (found.mode, found.size) == ("RGB", size)


def test_a_network_says_joints_where_its_heat_maps_are_high() -> None:
    class Fixed(JudgeNetwork):
        def forward(self, pixels: torch.Tensor):  # type: ignore[no-untyped-def]
            verdict = super().forward(pixels)
            verdict.joints[:] = -20.0
            verdict.joints[0, 4, 10, 50] = 20.0
            verdict.joints[0, 4, 40, 12] = 20.0
            return verdict

    found = joints_of(np.asarray(Judge(Fixed()).find("openpose", Image.new("RGB", (128, 128)))))
    assert found.keys() == {4}
    assert sorted(map(tuple, found[4].tolist())) == [pytest.approx((25, 81), abs=1), pytest.approx((101, 21), abs=1)]


def test_other_kinds_are_refused() -> None:
    with pytest.raises(TetherError, match="finds depth, normal, seg, openpose, not canny"):
        load_judge().find("canny", Image.new("RGB", (8, 8)))


def test_a_damaged_judge_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TetherError, match="cannot be opened") as caught:
        load_judge(tmp_path)
    assert "\n" not in str(caught.value)
