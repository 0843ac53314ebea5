"""Requests: validation, defaults, JSON inside PNGs, and those of older versions."""

from __future__ import annotations

import base64
import inspect
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.errors import TetherError
from tether.images import read_metadata, save_png
from tether.sampling import ControlRequest, Request
from tether.sampling.request import FAST, RULES, parse_lora, read_request, request_text

IMAGE = Image.new("RGB", (8, 8), "red")
GOLDEN = Path(__file__).parents[1] / "golden" / "pictures"


def stored(folder: Path, values: dict[str, Any] | str) -> Path:
    path = folder / "a.png"
    save_png(IMAGE, path, {"tether": values if isinstance(values, str) else json.dumps(values)})
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: input should be greater than or equal to 1, not 0"),
        ({"steps": 1001}, "steps: input should be less than or equal to 1000, not 1001"),
        ({"count": 0}, "count: input should be greater"),
        ({"seed": -1}, "seed.*greater than or equal to 0, not -1"),
        ({"seed": 2**64}, "seed.*less than"),
        ({"guidance_scale": float("nan")}, "guidance_scale: input should be a finite number"),
        ({"denoising_strength": 0}, "denoising_strength: input should be greater than 0"),
        ({"denoising_strength": 1.5}, "denoising_strength: input should be less than or equal to 1"),
        ({"clip_skip": 11}, "clip_skip"),
        ({"fit": "squeeze"}, "fit: input should be 'stretch', 'crop' or 'pad', not 'squeeze'"),
        ({"dtype": "float8"}, "dtype: input should be 'float32', 'bfloat16' or 'float16'"),
        ({"scheduler": "dmp"}, "unknown scheduler 'dmp': choose one of ddim, dpmpp-2m"),
        ({"index": 1}, "count is 1, with 1 seeds and index 1"),
        ({"seed": [1, 2]}, "count is 1, with 2 seeds"),
        ({"mask": IMAGE}, "mask needs an image to inpaint: give init too"),
        ({"init": IMAGE, "denoising_strength": 0.01}, "20 steps at denoising_strength 0.01 leave nothing to draw"),
        ({"init": "not an image"}, "init: not an image in base64"),
        ({"loras": [""]}, "'' is not a LoRA: write REF"),
        ({"denoising_strenght": 0.5}, "unknown key 'denoising_strenght': did you mean denoising_strength"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "strength": -1}]}, "strength is -1"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "weighting": "cfg"}]}, "weighting is 'cfg'"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "window": (0.5, 0.5)}]}, "window is"),
        ({"controls": [{"ref": "canny"}]}, "control canny: give either a condition"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "photo": IMAGE}]}, "control canny: give either"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "options": {"low": 3}}]}, "are for a photo"),
        ({"controls": [{"ref": "canny", "condition": IMAGE, "strenght": 1}]}, "did you mean strength"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        Request(prompt="x", **values)
    assert "\n" not in str(caught.value)


def test_the_older_name_of_denoising_strength_is_taken_alone() -> None:
    assert Request(prompt="x", strength=0.5).denoising_strength == 0.5  # type: ignore[call-arg]
    with pytest.raises(TetherError, match="strength"):
        Request(prompt="x", strength=0.5, denoising_strength=0.7)  # type: ignore[call-arg]


def test_a_request_has_a_schema_in_which_images_are_base64() -> None:
    schema = Request.model_json_schema()
    assert "denoising_strength" in schema["properties"]
    assert "image/png" in json.dumps(schema["properties"]["mask"])


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Request(prompt="x").steps = 3  # type: ignore[misc]


def test_pipelines_defaults_are_those_of_a_request() -> None:
    parameters = inspect.signature(tether.Pipeline.__call__).parameters
    shared = [name for name in Request.model_fields if name in parameters and name != "prompt"]
    assert len(shared) == 24
    default = Request(prompt="")
    for name in shared:
        assert parameters[name].default == getattr(default, name), name


def test_a_strength_is_a_number_or_the_text_of_a_schedule() -> None:
    def strength(value: Any, **settings: Any) -> tuple[Any, Any]:
        entry = ControlRequest(ref="canny", condition=IMAGE, strength=value, **settings)
        read = ControlRequest(**json.loads(entry.model_dump_json()))
        assert (read.strength, read.window) == (entry.strength, entry.window)
        return entry.strength, entry.window

    assert strength("0.8") == (0.8, (0, 1))
    assert strength("0.6@0.3-1, 0.2@0-0.3") == ("0.2@0-0.3,0.6@0.3-1", (0, 1))
    assert strength("0.2-0.8", window=(0.1, 0.9)) == ("0.2-0.8", (0.1, 0.9))
    assert strength("0.2@0-0.3") == strength(0.2, window=(0, 0.3))


@pytest.mark.parametrize("value", [True, None, [1.0], {"a": 1}, "x", "0.2@0-0.5,0.6@0.4-1", -1, float("nan")])
def test_what_is_not_a_strength_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(TetherError, match="strength") as error:
        ControlRequest(ref="canny", condition=IMAGE, strength=value)
    assert "\n" not in str(error.value)


def test_a_control_may_have_a_map_an_image() -> None:
    other = Image.new("RGB", (8, 8), "blue")
    entry = ControlRequest(ref="canny", condition=[IMAGE, other])
    request = Request(prompt="x", seed=7, count=2, controls=[entry])
    read = Request(**json.loads(request.model_dump_json()))
    assert [one.tobytes() for one in read.controls[0].conditions] == [IMAGE.tobytes(), other.tobytes()]
    second = request.for_image(1)
    assert (second.seeds, second.count, second.controls[0].condition) == ([8], 1, other)
    one = ControlRequest(ref="canny", photo=[IMAGE])
    assert one.photo is IMAGE
    assert isinstance(json.loads(one.model_dump_json())["photo"], str)
    with pytest.raises(TetherError, match="control canny has 2 images for a count of 3: give one, or one an image"):
        Request(prompt="x", count=3, controls=[entry])


@pytest.mark.parametrize("value", [[], "x", 3, [IMAGE, None], ["x"], {}])
def test_what_is_not_an_image_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(TetherError, match=r"condition: .*(expected an image|not an image)") as error:
        ControlRequest(ref="canny", condition=value)
    assert "\n" not in str(error.value)


def test_numpys_numbers_are_numbers() -> None:
    request = Request(prompt="x", seed=np.int64(3), guidance_scale=np.float32(2.5))
    assert (request.seed, request.guidance_scale) == (3, 2.5)


def test_there_is_one_seed_an_image() -> None:
    assert Request(prompt="x", seed=7, count=3).seeds == [7, 8, 9]
    assert Request(prompt="x", seed=[4, 2], count=2).seeds == [4, 2]


def test_a_request_survives_its_png(tmp_path: Path) -> None:
    request = Request(
        prompt="ünï",
        seed=3,
        count=2,
        init=IMAGE,
        controls=[ControlRequest(ref="canny", condition=IMAGE, mask=IMAGE, weighting=[1, 0.5], window=(0, 0.5))],
    )
    save_png(IMAGE, tmp_path / "a.png", request.metadata(1))
    read = read_request(tmp_path / "a.png")
    assert read.metadata(1) == request.metadata(1)
    assert (read.prompt, read.seed, read.index) == ("ünï", 3, 1)
    assert read.init is not None
    assert read.init.tobytes() == IMAGE.tobytes()
    mask = read.controls[0].injection().mask
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == (1, 1, 8, 8)


def test_of_a_photo_only_its_condition_is_written() -> None:
    entry = ControlRequest(ref="canny", photo=IMAGE, kind="canny", options={"low": 50})
    assert set(json.loads(entry.model_dump_json())) >= {"photo", "kind", "options"}
    prepared = entry.model_copy(update={"condition": IMAGE})
    text = Request(prompt="x").model_copy(update={"controls": [prepared]}).metadata(0)["tether"]
    (written,) = json.loads(text)["controls"]
    assert set(written) == {"ref", "condition", "source", "strength", "weighting", "sides", "window"}


def test_what_older_versions_do_not_know_is_written_only_if_it_is_used() -> None:
    written = json.loads(Request(prompt="x").model_dump_json())
    assert not {"engine", "combine"} & set(written)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.png")), ids=lambda path: path.stem)
def test_requests_of_older_versions_are_read(path: Path) -> None:
    if "tether" not in read_metadata(path):
        pytest.skip("drawn by Python")
    old, request = json.loads(request_text(path)), read_request(path)
    assert request.denoising_strength == old["strength"]
    assert [entry.strength for entry in request.controls] == [entry["strength"] for entry in old["controls"]]
    assert (request.prompt, request.seed, request.engine) == (old["prompt"], old["seed"], "eager")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown key 'surprise': leave it out"),
        ({"count": 0}, "count"),
        ({"index": 1}, "index 1"),
        ({"seed": [1, 2]}, "2 seeds"),
        ({"init": "not an image"}, "init"),
        ({"strength": 0}, "strength"),
        ({"controls": [3]}, "controls.0"),
        ({"prompt": None}, "prompt: input should be a valid string"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"versions": {"\udfff": "1"}}, "half of a surrogate pair"),
        ({"fingerprints": {"base": "abc"}}, "fingerprints.base: string should match pattern"),
    ],
)
def test_a_request_that_was_tampered_with_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = stored(tmp_path, json.loads(Request(prompt="x").model_dump_json()) | change)
    with pytest.raises(TetherError, match=f"a.png carries a request that is not valid: .*{message}") as caught:
        read_request(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"prompt": "x", "seed": 1' + "0" * 5000])
def test_what_is_not_a_request_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TetherError, match=r"a\.png carries"):
        read_request(stored(tmp_path, text))


def test_a_png_of_others_is_refused(tmp_path: Path) -> None:
    save_png(IMAGE, tmp_path / "a.png", {})
    with pytest.raises(TetherError, match="carries no Tether request: only pictures that Tether drew"):
        read_request(tmp_path / "a.png")


def test_loras() -> None:
    assert parse_lora("style.safetensors") == ("style.safetensors", 1.0)
    assert parse_lora("owner/name:-.5") == ("owner/name", -0.5)
    assert parse_lora("C:/x.safetensors:2") == ("C:/x.safetensors", 2.0)
    with pytest.raises(TetherError, match="is not a LoRA"):
        parse_lora("style:" + "9" * 400)


def test_a_long_text_is_read_as_a_lora_in_no_time() -> None:
    started = time.perf_counter()
    assert parse_lora("a:" + "1" * 50_000 + "x")[1] == 1
    assert time.perf_counter() - started < 10  # in proportion to the square of its length it takes minutes


def test_a_drawn_request_without_rules_was_drawn_by_the_first(tmp_path: Path) -> None:
    values = {"prompt": "x", "versions": {"torch": "2.0"}}
    assert read_request(stored(tmp_path, values)).rules == 1
    assert Request(**values).rules == 1
    assert Request(prompt="x").rules == RULES
    assert read_request(stored(tmp_path, values | {"rules": 2})).rules == 2


def test_a_new_request_says_its_rules_and_an_old_one_stays_as_it_was(tmp_path: Path) -> None:
    assert json.loads(Request(prompt="x").metadata(0)["tether"])["rules"] == RULES
    for path in GOLDEN.glob("*.png"):
        if path.stem != "python-mask":
            assert read_request(path).rules == 1
            assert "rules" not in json.loads(read_request(path).metadata(0)["tether"])


def test_masks_of_a_request_are_gray_whatever_they_were_given_as() -> None:
    erased = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    erased.paste((0, 0, 0, 255), (8, 0, 16, 16))
    entry = ControlRequest(ref="canny", condition=IMAGE, mask=erased, mask_resize="bilinear")
    request = Request(prompt="x", init=IMAGE, mask=erased, controls=[entry])
    again = Request(**json.loads(request.metadata(0)["tether"]))
    for mask in (request.mask, entry.mask, again.mask, again.controls[0].mask):
        assert mask is not None
        assert mask.mode == "L"
        assert (np.asarray(mask) == [0] * 8 + [255] * 8).all()
    assert again.controls[0].injection().mask_resize == "bilinear"


def test_a_large_map_in_json_is_read_as_a_map_and_a_photo_as_a_photo() -> None:
    wide = Image.new("RGB", (9000, 8), (6, 230, 230))
    for k in range(0, 9000, 5):
        wide.paste((4, 200, 3), (k, 0, k + 2, 8))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    (condition,) = ControlRequest(ref="seg", condition=text).conditions
    (photo,) = ControlRequest(ref="seg", photo=text).photos
    assert condition.width == photo.width == 8192
    assert len(condition.getcolors()) == 2 < len(photo.getcolors())


def test_less_work_is_written_only_when_it_is_asked_for() -> None:
    plain = Request(prompt="x", controls=[ControlRequest(ref="canny", photo=Image.new("RGB", (8, 8)))])
    text = plain.model_dump_json()
    assert not any(name in text for name in ("guidance_window", "every", "engine", "deep", "merge", "fast", "toler"))
    less = Request(
        prompt="x",
        guidance_window=(0.2, 0.8),
        deep_every=4,
        deep_skips=2,
        deep_window=(0.1, 1.0),
        merge_tokens=0.5,
        controls=[ControlRequest(ref="canny", photo=Image.new("RGB", (8, 8)), every=3, tolerance=0.2)],
    )
    read = Request(**json.loads(less.model_dump_json()))
    assert (read.guidance_window, read.deep_every, read.deep_skips) == ((0.2, 0.8), 4, 2)
    assert (read.deep_window, read.merge_tokens) == ((0.1, 1.0), 0.5)
    injection = read.controls[0].injection()
    assert (injection.every, injection.tolerance) == (3, 0.2)


def test_the_preset_is_written_field_by_field_and_what_is_given_stays() -> None:
    fast = Request(prompt="x", fast=True)
    assert {name: getattr(fast, name) for name in FAST} == FAST
    assert "fast" not in fast.model_dump_json()
    assert Request(**json.loads(fast.model_dump_json())) == fast
    assert Request(prompt="x", fast=True, deep_every=1).deep_every == 1
    assert Request(prompt="x", fast=False) == Request(prompt="x")


@pytest.mark.parametrize(
    "wrong", [{"deep_every": 0}, {"deep_skips": 0}, {"merge_tokens": 0.8}, {"deep_window": (0.5, 0.5)}, {"fast": "x"}]
)
def test_less_work_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(TetherError, match=f"^{name}"):
        Request(prompt="x", **wrong)


@pytest.mark.parametrize("window", [(0.5, 0.5), (-0.1, 1), (0.2, 1.1), (0.8, 0.2)])
def test_a_window_of_guidance_that_is_none_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(TetherError, match="guidance_window is"):
        Request(prompt="x", guidance_window=window)
