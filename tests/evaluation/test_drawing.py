"""Pictures are drawn once, under the name of everything that they depend on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether import Pipeline, load_base
from tether.evaluation import Arm, Artist, Case, Steering
from tether.evaluation.drawing import seeds_of
from tether.images import open_image
from tether.kinds import annotate
from tether.sampling import Drawn, Request, Session
from tether.weights import shipped

SIDE = 64


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


@pytest.fixture
def case() -> Case:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(image).rectangle((16, 16, 47, 47), fill="red")
    return Case("set/a square", "a red square", image, {"canny": annotate("canny", image)})


def canny(**settings: float) -> Arm:
    return Arm("canny", (Steering("canny", "canny", settings),))


TEMPLATE = Request(prompt="", steps=1)


def test_a_picture_is_drawn_once_and_again_when_it_is_damaged(session: Session, case: Case, tmp_path: Path) -> None:
    artist = Artist(session, TEMPLATE, tmp_path)
    path = artist.picture(case, canny(), 7)
    first = open_image(path).tobytes()
    assert artist.picture(case, canny(), 7) == path
    assert artist.drawn == 1
    path.write_bytes(path.read_bytes()[:500])
    again = Artist(session, TEMPLATE, tmp_path)
    assert open_image(again.picture(case, canny(), 7)).tobytes() == first
    assert again.drawn == 1


def test_what_changes_a_picture_changes_its_name(session: Session, case: Case, tmp_path: Path) -> None:
    artist = Artist(session, TEMPLATE, tmp_path)
    other = Case(case.key, "a blue square", case.image, case.maps)
    paths = {
        artist.picture(case, canny(), 7),
        artist.picture(case, canny(), 8),
        artist.picture(case, canny(strength=0.5), 7),
        artist.picture(other, canny(), 7),
        artist.picture(case, Arm("strength 0"), 7),
        Artist(session, Request(prompt="", steps=2), tmp_path).picture(case, canny(), 7),
    }
    assert len(paths) == 6


def test_settings_of_a_control_that_are_no_weights_change_the_name(case: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(shipped("control-canny"), tmp_path / "canny")
    arm = Arm("canny", (Steering(str(folder), "canny"),))

    def name() -> str:
        return Artist(Session(), TEMPLATE, tmp_path / "out").picture(case, arm, 7).name

    before = name()
    assert name() == before
    settings = json.loads((folder / "tether.json").read_text())
    (folder / "tether.json").write_text(json.dumps(settings | {"sides": "both"}))
    assert name() != before


def test_strength_0_is_drawn_without_the_control_and_is_the_bases_picture(
    session: Session, case: Case, tmp_path: Path
) -> None:
    drawn = open_image(Artist(session, TEMPLATE, tmp_path).picture(case, Arm("strength 0"), 7))
    silent = open_image(Artist(session, TEMPLATE, tmp_path).picture(case, canny(strength=0.0), 7))
    (base,) = Pipeline(load_base())("a red square", seed=7, steps=1, size=(SIDE, SIDE))
    assert drawn.tobytes() == silent.tobytes() == base.tobytes()  # type: ignore[union-attr]


def test_a_case_with_a_mask_is_inpainted_whole(session: Session, case: Case, tmp_path: Path) -> None:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
    masked = Case(case.key, case.prompt, case.image, case.maps, mask=mask)
    request = Artist(session, TEMPLATE, tmp_path).request(masked, Arm("strength 0"), 0)
    assert request.denoising_strength == 1
    drawn = open_image(Artist(session, TEMPLATE, tmp_path).picture(masked, Arm("strength 0"), 0))
    right = (32, 0, 64, 64)
    assert drawn.crop(right).tobytes() == case.image.crop(right).tobytes()
    assert drawn.tobytes() != case.image.tobytes()


def test_a_batch_is_drawn_at_once_under_the_names_of_one_by_one(
    session: Session, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Case("set/another", "a blue square", case.image, {"canny": Image.new("RGB", (SIDE, SIDE))})
    wanted = [(case, 7), (other, 8), (case, 9)]
    alone = list(Artist(session, TEMPLATE, tmp_path / "alone").pictures(wanted, canny()))
    batches: list[int] = []
    together = session.draw_together

    def counted(requests: Sequence[Request]) -> list[list[Drawn]] | None:
        batches.append(len(requests))
        return together(requests)

    monkeypatch.setattr(session, "draw_together", counted)
    artist = Artist(session, TEMPLATE, tmp_path / "batches", batch=3)
    artist.picture(other, canny(), 8)
    drawn = list(artist.pictures(wanted, canny()))
    assert batches == [2]  # one of three was there
    assert [one.name for one in drawn] == [one.name for one in alone]
    for one, path in zip(alone, drawn, strict=True):
        pixels = [np.asarray(open_image(file)).astype(int) for file in (one, path)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_pictures_that_cannot_be_drawn_at_once_are_drawn_one_by_one(
    session: Session, case: Case, tmp_path: Path
) -> None:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
    masked = Case(case.key, case.prompt, case.image, case.maps, mask=mask)
    alone = Artist(session, TEMPLATE, tmp_path / "alone").picture(masked, Arm("strength 0"), 1)
    _, drawn = Artist(session, TEMPLATE, tmp_path, batch=2).pictures([(masked, 0), (masked, 1)], Arm("strength 0"))
    assert open_image(drawn).tobytes() == open_image(alone).tobytes()


def test_more_pictures_or_cases_begin_with_the_same_seeds() -> None:
    assert list(seeds_of(5, 2, 3))[:1] == list(seeds_of(5, 2, 1))
    assert len({one for case in range(500) for one in seeds_of(0, case, 4)}) == 2000
