"""Held-out cases: nothing that training sees, the same ones for any count, from every kind of set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.datasets.sources.open import open_source
from tether.datasets.synthetic.emoji import is_held_out
from tether.errors import TetherError
from tether.evaluation.cases import held_out_cases, open_held_out

SIZE = (64, 64)


def keys(ref: str) -> set[str]:
    source = open_held_out(ref, 64).source
    return {source.key(k) for k in range(len(source))}


def test_no_training_sees_what_is_held_out_of_the_packages_sets() -> None:
    emoji = {key.rsplit("-", 1)[0] for key in keys("emoji3d")}
    assert len(emoji) > 30
    assert all(map(is_held_out, emoji))
    trained = open_source("emoji3d", size=64)
    assert not any(is_held_out(trained.key(k).rsplit("-", 1)[0]) for k in range(2000))
    assert keys("scenes") == {f"scene-{seed}" for seed in range(1_000_000, 1_001_500)}
    held_out, trained = open_held_out("circles", 64).source, open_source("circles", size=64)
    assert held_out.sample(0).caption != trained.sample(0).caption
    assert held_out.fingerprint() != trained.fingerprint()


def test_a_larger_count_begins_with_the_same_cases() -> None:
    few = held_out_cases([open_held_out("emoji3d", 64)], ["canny"], SIZE, 3)
    more = held_out_cases([open_held_out("emoji3d", 64)], ["canny"], SIZE, 5)
    assert [one.key for one in few] == [one.key for one in more][:3]
    assert few[0].image.tobytes() == more[0].image.tobytes()


def test_the_first_cases_of_drawings_are_of_all_sorts_and_each_drawing_comes_once_before_one_comes_twice() -> None:
    drawings = len(open_held_out("emoji3d", 64).source.drawings)  # type: ignore[attr-defined]
    cases = held_out_cases([open_held_out("emoji3d", 64)], [], SIZE, drawings + 1)
    assert len({one.subject for one in cases[:drawings]}) == drawings
    assert cases[-1].subject in {one.subject for one in cases[:drawings]}
    # In Unicode order five of the first six are faces.
    assert sum("face" in one.key for one in cases[:6]) <= 3


def test_the_number_of_a_case_does_not_depend_on_the_other_sets() -> None:
    sets = [open_held_out(name, 64) for name in ("circles", "emoji3d")]
    alone, together = held_out_cases(sets[1:], ["canny"], SIZE, 2), held_out_cases(sets, ["canny"], SIZE, 4)
    assert [(one.key, one.number) for one in alone] == [(one.key, one.number) for one in together[2:]]


def test_several_sets_share_the_count_and_several_kinds_the_picture() -> None:
    sets = [open_held_out(name, 64) for name in ("circles", "scenes")]
    cases = held_out_cases(sets, ["canny", "scribble"], SIZE, 3, use_given=False)
    assert [one.layout for one in cases] == ["circles", "circles", "scenes"]
    (case,) = held_out_cases(sets[1:], ["depth", "openpose", "canny"], SIZE, 1)
    assert case.exact == {"depth", "openpose"}
    assert all(one.size == SIZE for one in case.maps.values())
    assert np.asarray(case.maps["openpose"]).any()  # scenes without a mannequin are passed over


def test_the_condition_of_a_set_is_used_or_made_anew() -> None:
    (given,) = held_out_cases([open_held_out("circles", 64)], ["canny"], SIZE, 1)
    (made,) = held_out_cases([open_held_out("circles", 64)], ["canny"], SIZE, 1, use_given=False)
    outline = open_held_out("circles", 64).source.sample(0).condition
    assert isinstance(outline, Image.Image)
    assert given.maps["canny"].tobytes() == outline.tobytes()
    assert made.maps["canny"].tobytes() != outline.tobytes()


def test_kinds_with_holes_have_a_mask_that_is_the_same_each_time() -> None:
    one, other = (held_out_cases([open_held_out("emoji3d", 64)], ["inpaint"], SIZE, 1)[0] for _ in range(2))
    assert one.mask is not None
    assert other.mask is not None
    assert one.mask.tobytes() == other.mask.tobytes()
    assert 0 < np.asarray(one.mask).mean() < 255


def folder(path: Path, *parts: str) -> Path:
    for part in parts:
        (path / part).mkdir(parents=True)
        for k in range(2):
            level = 40 * k + 10 * len(part)
            pixels = np.full((80, 100, 3), level, np.uint8)
            pixels[20:60, 30:70] = 255 - level
            Image.fromarray(pixels).save(path / part / f"{k}.png")
            (path / part / f"{k}.txt").write_text(f"{part} {k}")
    return path


def test_of_a_folder_the_test_split_is_taken_else_validation_else_all(tmp_path: Path) -> None:
    three = folder(tmp_path / "three", "train", "val", "test")
    two = folder(tmp_path / "two", "train", "val")
    one = folder(tmp_path / "one", "pictures")
    for path, split, word in (
        (three, "test", "test"),
        (two, "validation", "val"),
        (one, "all, trained on", "pictures"),
    ):
        found = open_held_out(path, 64)
        assert found.split.startswith(split)
        cases = held_out_cases([found], ["canny"], SIZE, 10)
        assert len(cases) == 2
        assert all(case.prompt.startswith(word) and case.image.size == SIZE for case in cases)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"no depth maps.*scenes"):
        held_out_cases([open_held_out("emoji3d", 64)], ["depth"], SIZE, 1)
    broken = folder(tmp_path, "a")
    for path in broken.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(TetherError, match="no sample to measure"):
        held_out_cases([open_held_out(broken, 64)], ["canny"], SIZE, 1)
    with pytest.raises(TetherError, match="does not exist"):
        open_held_out(tmp_path / "nowhere", 64)
