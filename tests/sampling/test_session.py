"""Sessions: prepare, open, run; what is kept, what is shared, what is undone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tether.base import Base, ControlNet
from tether.errors import TetherError
from tether.images import fit, fit_condition, save_png
from tether.kinds import annotate
from tether.sampling import Cancelled, ControlRequest, Pipeline, Request, Session, Step, opening
from tether.sampling.request import read_request
from tether.sampling.session import one_at_a_time


@pytest.fixture
def photo() -> Image.Image:
    image = Image.new("RGB", (90, 70), (30, 30, 30))
    image.paste((220, 60, 60), (20, 20, 60, 50))
    return image


@pytest.fixture
def control(control_folder: Path) -> str:
    return str(control_folder)


@pytest.fixture
def request_of(tiny_folder: Path) -> Any:
    def make(**values: Any) -> Request:
        return Request(**{"prompt": "a cube", "base": str(tiny_folder), "steps": 2} | values)

    return make


def test_a_photo_is_fitted_then_annotated_at_the_size_that_is_drawn(
    request_of: Any, control: str, photo: Image.Image
) -> None:
    entry = ControlRequest(ref=control, photo=photo, options={"low": 20, "high": 60}, mask=photo)
    prepared = Session().prepare(request_of(controls=[entry], init=photo))
    assert prepared.size == (64, 64)
    fitted = fit(photo, 64, 64, "crop")
    (made,) = prepared.controls
    assert made.condition is not None
    assert made.condition.tobytes() == annotate("canny", fitted, low=20, high=60).tobytes()
    assert made.photo is not None
    assert made.photo.tobytes() == fitted.tobytes()
    assert made.mask is not None
    assert made.mask.size == (64, 64)
    assert prepared.init is not None
    assert prepared.init.tobytes() == fitted.tobytes()
    assert {"torch", "diffusers"} < set(prepared.versions)


def test_the_kind_of_a_photo_may_be_another_than_the_controls(
    request_of: Any, control: str, photo: Image.Image
) -> None:
    request = request_of(controls=[ControlRequest(ref=control, photo=photo, kind="scribble")])
    (made,) = Session().prepare(request).controls
    assert made.condition is not None
    assert made.condition.tobytes() == annotate("scribble", fit(photo, 64, 64, "crop")).tobytes()


def test_a_ready_condition_is_fitted_as_its_kind_is(request_of: Any, control: str, photo: Image.Image) -> None:
    lines = annotate("canny", photo)
    (made,) = Session().prepare(request_of(controls=[ControlRequest(ref=control, condition=lines)])).controls
    assert made.condition is not None
    assert made.condition.tobytes() == fit_condition(lines, 64, 64, "crop").tobytes()
    assert made.photo is None


def test_preparing_twice_changes_nothing(request_of: Any, control: str, photo: Image.Image) -> None:
    session = Session()
    once = session.prepare(request_of(controls=[ControlRequest(ref=control, photo=photo)], init=photo, mask=photo))
    twice = session.prepare(once)
    assert twice.metadata(0) == once.metadata(0)


def test_run_gives_images_with_metadata_that_repeats_them(
    request_of: Any, control: str, photo: Image.Image, tmp_path: Path
) -> None:
    request = request_of(controls=[ControlRequest(ref=control, photo=photo)], count=2, seed=5)
    drawn = Session().run(request)
    assert [one.seed for one in drawn] == [5, 6]
    save_png(drawn[1].image, tmp_path / "a.png", drawn[1].metadata)
    again = Session().run(read_request(tmp_path / "a.png"))
    assert again[1].image.tobytes() == drawn[1].image.tobytes()
    assert again[1].metadata == drawn[1].metadata


def test_run_is_the_pipeline(request_of: Any, tiny_base: Base) -> None:
    (drawn,) = Session().run(request_of(seed=3, guidance_scale=2.0))
    (image,) = Pipeline(tiny_base)("a cube", seed=3, steps=2, guidance_scale=2.0)
    assert isinstance(image, Image.Image)
    assert drawn.image.tobytes() == image.tobytes()


def test_a_mask_a_control_limits_where_it_acts(request_of: Any, control: str, photo: Image.Image) -> None:
    def draw(**values: Any) -> bytes:
        request = request_of(controls=[ControlRequest(ref=control, photo=photo, **values)])
        return session.run(request)[0].image.tobytes()

    session = Session()
    nowhere, everywhere = (Image.new("L", (64, 64), level) for level in (0, 255))
    assert draw(mask=everywhere) == draw()
    assert draw(mask=nowhere) == session.run(request_of())[0].image.tobytes()
    assert draw(mask=nowhere) != draw()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "gpu0"}, "no device 'gpu0'"),
        ({"device": "meta"}, "no device 'meta' here"),
        ({"controls": [ControlRequest(ref="canny", photo=Image.new("RGB", (8, 8)), kind="cany")]}, "canny"),
        ({"controls": [ControlRequest(ref="x", photo=Image.new("RGB", (8, 8)), kind="keypoints")]}, "no annotator"),
    ],
)
def test_errors_come_before_a_base_is_opened(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=message):
        Session().prepare(Request(prompt="x", base="/no/such/base", **values))


def test_a_size_that_cannot_be_drawn_is_refused_before_images_of_it_are_made(request_of: Any) -> None:
    with pytest.raises(TetherError, match="multiples of 8"):
        Session().prepare(request_of(size=(200_000, 200_000), init=Image.new("RGB", (8, 8))))


def test_a_photo_for_a_control_of_unknown_kind_is_refused(
    request_of: Any, control: str, photo: Image.Image, tmp_path: Path
) -> None:
    opened = ControlNet.load(control)
    opened.kind = None
    opened.save(tmp_path / "mine")
    request = request_of(controls=[ControlRequest(ref=str(tmp_path / "mine"), photo=photo)])
    with pytest.raises(TetherError, match="does not say what its conditions are: annotate the photo first"):
        Session().prepare(request)


def test_bases_and_controls_are_opened_once(
    request_of: Any, control: str, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load, load_control = opening.load_base, opening.load_control
    monkeypatch.setattr(opening, "load_base", lambda ref, **o: opened.append("base") or load(ref, **o))
    monkeypatch.setattr(opening, "load_control", lambda ref, **o: opened.append("control") or load_control(ref, **o))
    session = Session()
    request = request_of(controls=[ControlRequest(ref=control, photo=photo)])
    first, second = session.run(request)[0], session.run(request)[0]
    assert opened == ["base", "control"]
    assert first.image.tobytes() == second.image.tobytes()
    session.open(request_of(dtype="bfloat16"))
    session.open(request_of(prediction_type="v_prediction"))
    assert opened.count("base") == 3
    session.open(request)  # two bases are kept, and this one was used longest ago
    assert opened.count("base") == 4


def test_on_step_hears_of_every_step(request_of: Any) -> None:
    heard: list[Step] = []
    Session().run(request_of(steps=4), on_step=heard.append)
    assert [(one.index, one.total) for one in heard] == [(k, 4) for k in range(4)]


def test_a_run_is_cancelled_between_steps(request_of: Any) -> None:
    heard: list[Step] = []
    session = Session()
    with pytest.raises(Cancelled, match="cancelled"):
        session.run(request_of(steps=9), on_step=heard.append, cancel=lambda: len(heard) == 2)
    assert len(heard) == 2
    with pytest.raises(Cancelled, match="cancelled"):
        session.run(request_of(base="/no/such/base"), cancel=lambda: True)
    assert len(session.run(request_of(), cancel=lambda: False)) == 1


def test_low_memory_draws_one_image_at_a_time(request_of: Any) -> None:
    request = request_of(low_memory=True, seed=[4, 9], count=2)
    assert [(part.seed, part.count) for part in one_at_a_time(request)] == [(4, 1), (9, 1)]
    assert one_at_a_time(request_of(count=2)) == [request_of(count=2)]
    spared, usual = Session().run(request), Session().run(request_of(seed=[4, 9], count=2))
    for one, other in zip(spared, usual, strict=True):
        assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 1
        assert '"count":1' in one.metadata["tether"]


def test_a_line_is_given_for_each_base_that_is_opened(request_of: Any) -> None:
    lines: list[str] = []
    Session(notify=lines.append).open(request_of())
    assert len(lines) == 1
    assert "latent diffusion model" in lines[0]


def test_a_control_and_a_base_whose_files_have_changed_are_opened_again(
    request_of: Any, tiny_folder: Path, control: str, photo: Image.Image, tmp_path: Path
) -> None:
    base, steering = (shutil.copytree(one, tmp_path / name) for one, name in ((tiny_folder, "base"), (control, "c")))
    lines: list[str] = []
    session = Session(notify=lines.append)
    request = request_of(base=str(base), controls=[ControlRequest(ref=str(steering), photo=photo)])
    first = session.run(request)[0]
    assert session.run(request)[0].image.tobytes() == first.image.tobytes()
    assert not any("opened again" in line for line in lines)
    for folder in (steering, base / "unet"):
        file = folder / "diffusion_pytorch_model.safetensors"
        save_file({name: 1.1 * tensor for name, tensor in load_file(file).items()}, file)
        drawn = session.run(request)[0]
        assert drawn.image.tobytes() == Session().run(request)[0].image.tobytes()
        assert drawn.image.tobytes() != first.image.tobytes()
    assert f"{steering}: its files have changed, it is opened again" in lines
    assert f"{base}: files that it was opened from have changed, it is opened again" in lines


def test_images_whose_text_would_be_too_long_are_refused_before_they_are_drawn(
    request_of: Any, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.sampling.session.MAX_TEXT", 50_000)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    many = request_of(count=8, controls=[ControlRequest(ref=control, condition=[noise] * 8)])
    with pytest.raises(TetherError, match=r"8 images would take .* draw them one by one, from a folder"):
        Session().prepare(many)
    Session().prepare(request_of(controls=[ControlRequest(ref=control, condition=noise)]))


def test_the_last_seed_of_a_request_is_a_seed() -> None:
    with pytest.raises(TetherError, match="that of the last image must be below"):
        Request(prompt="x", seed=2**64 - 1, count=2)
    assert Request(prompt="x", seed=2**64 - 1).seeds == [2**64 - 1]
