"""`tether generate` end to end, on the tiny base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from tether.base import Base, ControlNet, load_base
from tether.cli import app
from tether.errors import TetherError
from tether.files.fingerprint import fingerprint
from tether.images import fit, read_metadata, save_png
from tether.kinds import annotate
from tether.sampling import Pipeline, Request
from tether.sampling.request import RULES, read_request, request_text


@pytest.fixture
def control(control_folder: Path) -> Path:
    return control_folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = Image.new("RGB", (90, 70), (30, 30, 30))
    image.paste((220, 60, 60), (20, 20, 60, 50))
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def tether(*arguments: object) -> list[str]:
    given = [str(argument) for argument in arguments]
    if not {"--seed", "--again"} & set(given):
        given += ["--seed", "0"]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_an_image_is_repeated_to_the_byte_from_itself_alone(
    tiny_folder: Path, control: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("generate", "a red cube", "--base", tiny_folder, "--control", f"{control}={photo}:0.7@0-0.8")
    acts = ("--weighting", "cfg-rw", "--sides", 0.75)
    lines = tether(*command, "--seed", 7, "--count", 3, "--steps", 3, *acts, "-o", out, "--json")
    printed = [json.loads(line) for line in lines]
    assert [one["seed"] for one in printed] == [7, 8, 9]
    assert {(one["width"], one["height"]) for one in printed} == {(64, 64)}
    photo.unlink()
    for one in printed[1:]:
        (path,) = tether("generate", "--again", one["path"], "-o", tmp_path / "again")
        assert Path(path).read_bytes() == Path(one["path"]).read_bytes()


def test_a_schedule_of_strength_is_the_same_by_command_request_and_python_and_is_repeated(
    tiny_folder: Path, control: Path, photo: Path, tmp_path: Path
) -> None:
    text = "0.2@0-0.3,0.5-1@0.5-1"
    command = ("generate", "a red cube", "--base", tiny_folder, "--steps", 4, "-o", tmp_path)
    (path,) = tether(*command, "--control", f"{control}={photo}:{text}", "--control", f"{control}={photo}:0.5",
                     "--combine", "limited")  # fmt: skip
    request = read_request(Path(path))
    assert (request.controls[0].strength, request.controls[0].window, request.combine) == (text, (0, 1), "limited")
    assert json.loads(request_text(Path(path)))["controls"][0]["strength"] == text
    (again,) = tether("generate", "--again", path, "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(path).read_bytes()
    base = load_base(tiny_folder)
    pipeline = Pipeline(base, [ControlNet.load(control, base=base)] * 2)
    maps = [one.condition for one in request.controls]
    (drawn,) = pipeline("a red cube", maps, injections=[text, 0.5], combine="limited", steps=4)
    assert drawn.tobytes() == Image.open(path).tobytes()
    (plain,) = pipeline("a red cube", maps, injections=[1, 0.5], combine="limited", steps=4)
    (added,) = pipeline("a red cube", maps, injections=[text, 0.5], steps=4)
    assert len({one.tobytes() for one in (drawn, plain, added)}) == 3


def test_each_picture_of_a_batch_follows_its_own_map_and_is_repeated(
    tiny_folder: Path, control: Path, photo: Path, tmp_path: Path
) -> None:
    mirrored = tmp_path / "photo2.png"
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(mirrored)
    command = ("generate", "a cube", "--base", tiny_folder, "--steps", 2, "--grid", "-o", tmp_path / "out")
    for images in (f"{photo},{mirrored}", f"{tmp_path}/photo*.png"):
        *paths, sheet = tether(*command, "--control", f"{control}={images}:0.9", "--seed", 7)
        assert len(paths) == 2
        request = read_request(Path(paths[1]))
        assert (request.count, request.seeds, request.index) == (2, [7, 8], 1)
        assert request.controls[0].source == "photo.png, photo2.png"
        assert [one.tobytes() for one in request.controls[0].conditions] == [
            annotate("canny", fit(Image.open(one), 64, 64, "crop")).tobytes() for one in (photo, mirrored)
        ]
        # Photos, maps and pictures, each below its own.
        assert Image.open(sheet).size == (2 * 70 + 6, 3 * 70 + 6)
        (again,) = tether("generate", "--again", paths[1], "-o", tmp_path / "again")
        assert Path(again).read_bytes() == Path(paths[1]).read_bytes()
    alone = ("--control", f"{control}={mirrored}:0.9", "--seed", 8, "--low-memory")
    expected, _ = tether(*command, *alone)
    both = ("--control", f"{control}={photo},{mirrored}:0.9", "--seed", 7, "--low-memory")
    _, second, _ = tether(*command, *both)
    assert Image.open(second).tobytes() == Image.open(expected).tobytes()
    (again,) = tether("generate", "--again", second, "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(second).read_bytes()


def test_the_grid_shows_source_condition_and_results(
    tiny_folder: Path, control: Path, photo: Path, tmp_path: Path
) -> None:
    lines = tether(
        "generate", "x", "--base", tiny_folder, "--control", f"{control}={photo}", "--steps", 2, "--count", 2,
        "-o", tmp_path / "out", "--grid",
    )  # fmt: skip
    sheet = Image.open(lines[-1])
    assert sheet.width == 4 * 70 + 6
    cells = [np.asarray(sheet.crop((6 + 70 * k, 6, 70 + 70 * k, 70))) for k in range(4)]
    assert set(np.unique(cells[1])) == {0, 255}
    assert np.array_equal(cells[2], np.asarray(Image.open(lines[0])))
    assert np.array_equal(cells[3], np.asarray(Image.open(lines[1])))
    lines = tether("generate", "--again", lines[1], "-o", tmp_path / "again", "--grid")
    assert Path(lines[-1]).name == f"{Path(lines[0]).stem}-sheet.png"
    sheet = Image.open(lines[-1])
    assert sheet.width == 2 * 70 + 6
    for k, expected in enumerate((cells[1], cells[3])):
        assert np.array_equal(np.asarray(sheet.crop((6 + 70 * k, 6, 70 + 70 * k, 70))), expected)


def test_the_border_of_a_padded_photo_is_not_a_line(tiny_folder: Path, control: Path, tmp_path: Path) -> None:
    Image.new("RGB", (120, 60), (90, 90, 90)).save(tmp_path / "flat.png")
    steered = ("--control", f"{control}={tmp_path / 'flat.png'}", "--fit", "pad")
    tether("generate", "a cube", "--base", tiny_folder, *steered, "--steps", 1, "-o", tmp_path / "out")
    condition = read_request(next((tmp_path / "out").glob("*.png"))).controls[0].condition
    assert condition.convert("L").getextrema() == (0, 0)


def test_a_repeated_image_that_differs_gives_a_warning(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("generate", "x", "--base", tiny_folder, "--steps", 2, "-o", tmp_path / "out")
    (path,) = tether(*command)
    result = CliRunner().invoke(app, ["generate", "--again", path, "-o", str(tmp_path / "again")])
    assert (result.exit_code, "differs" in result.stderr) == (0, False)
    other = tmp_path / "other.png"
    save_png(Image.new("RGB", (64, 64)), other, read_metadata(path))
    result = CliRunner().invoke(app, ["generate", "--again", str(other), "-o", str(tmp_path / "again")])
    assert result.exit_code == 1
    assert "other.png: the image differs by up to " in result.stderr
    assert "of 255: it was made with other weights, together with other images" in result.stderr
    assert "or with tether-control" in result.stderr


def test_a_photo_whose_name_is_not_utf_8_is_used(tiny_folder: Path, control: Path, photo: Path) -> None:
    odd = photo.with_name(b"caf\xe9.png".decode(errors="surrogateescape"))
    photo.rename(odd)
    (path,) = tether(
        "generate", "x", "--base", tiny_folder, "--control", f"{control}={odd}", "--steps", 1, "-o", photo.parent
    )
    assert read_request(Path(path)).controls[0].source == "caf?.png"


def test_clip_skip_and_prediction_type_are_kept_in_the_request(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("generate", "a cube", "--base", tiny_folder, "--steps", 2, "-o", tmp_path)
    (plain,) = tether(*command)
    (skipped,) = tether(*command, "--clip-skip", 1)
    (velocity,) = tether(*command, "--prediction-type", "v_prediction")
    assert read_request(Path(skipped)).clip_skip == 1
    assert read_request(Path(velocity)).prediction_type == "v_prediction"
    assert len({Image.open(path).tobytes() for path in (plain, skipped, velocity)}) == 3


def test_a_ready_condition_is_used_as_it_is(tiny_folder: Path, control: Path, tmp_path: Path) -> None:
    edges = Image.fromarray((np.random.default_rng(0).random((64, 64, 1)) > 0.9).repeat(3, 2).astype(np.uint8) * 255)
    save_png(edges, tmp_path / "edges.png")
    (path,) = tether(
        "generate", "x", "--base", tiny_folder, "--condition", f"{control}={tmp_path / 'edges.png'}", "--steps", 2,
        "-o", tmp_path / "out",
    )  # fmt: skip
    kept = read_request(Path(path)).controls[0].condition
    assert np.array_equal(np.asarray(kept), np.asarray(edges))


def test_image_to_image_and_inpainting_run_and_repeat(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    Image.new("L", (90, 70), 255).save(tmp_path / "mask.png")
    for extra in ((), ("--mask", tmp_path / "mask.png")):
        (path,) = tether(
            "generate", "x", "--base", tiny_folder, "--init", photo, "--denoising-strength", 0.7, "--steps", 4, *extra,
            "-o", tmp_path / "out", "--scheduler", "ddim",
        )  # fmt: skip
        (again,) = tether("generate", "--again", path, "-o", tmp_path / "again")
        assert Path(path).read_bytes() == Path(again).read_bytes()
        request = read_request(Path(path))
        assert {kept.size for kept in (request.init, request.mask) if kept is not None} == {(64, 64)}


def test_each_image_may_have_its_own_seed(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("generate", "x", "--base", tiny_folder, "--steps", 2, "-o")
    paths = tether(*command, tmp_path / "out", "--seed", "9,4")
    assert [Path(path).stem for path in paths] == ["x-9", "x-4"]
    (alone,) = tether(*command, tmp_path / "alone", "--seed", 4)
    both = [np.asarray(Image.open(path), int) for path in (paths[1], alone)]
    assert np.abs(both[0] - both[1]).max() <= 1
    (again,) = tether("generate", "--again", paths[1], "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(paths[1]).read_bytes()


def test_a_batch_is_written_before_it_is_printed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("tether.cli.generate.print_drawn", closed)
    with pytest.raises(BrokenPipeError):
        tether("generate", "x", "--base", tiny_folder, "--steps", 1, "--count", 3, "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x-0.png", "x-1.png", "x-2.png"]


def test_a_preview_is_written_while_an_image_is_generated(tiny_folder: Path, tmp_path: Path) -> None:
    preview = tmp_path / "new" / "preview.png"
    tether("generate", "x", "--base", tiny_folder, "--steps", 2, "-o", tmp_path / "out", "--preview", preview)
    assert Image.open(preview).width >= 64
    tether("generate", "x", "--base", tiny_folder, "--steps", 1, "-o", tmp_path / "out", "--preview", preview)
    Image.new("RGB", (8, 8)).save(preview)
    with pytest.raises(TetherError, match=r"--preview .* exists.*: give another name"):
        tether("generate", "x", "--base", tiny_folder, "-o", tmp_path / "out", "--preview", preview)


def test_low_memory_generates_the_same_images_one_by_one(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("generate", "x", "--base", tiny_folder, "--steps", 2, "--count", 2, "-o")
    usual = tether(*command, tmp_path / "usual")
    spared = tether(*command, tmp_path / "spared", "--low-memory")
    for one, other in zip(usual, spared, strict=True):
        assert np.abs(np.asarray(Image.open(one), int) - np.asarray(Image.open(other), int)).max() <= 1
    request = read_request(Path(spared[1]))
    assert (request.seeds, request.low_memory) == ([1], True)
    (again,) = tether("generate", "--again", spared[1], "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(spared[1]).read_bytes()


def test_a_lora_and_a_new_word_change_the_image(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    command = ("generate", "a <thing>", "--base", tiny_folder, "--steps", 2, "-o", tmp_path / "out")
    width = tiny_base.text_encoder.config.hidden_size
    save_file({"emb_params": torch.randn(1, width)}, tmp_path / "thing.safetensors")
    (plain,) = tether(*command)
    (worded,) = tether(*command, "--embedding", tmp_path / "thing.safetensors")
    assert Path(plain).read_bytes() != Path(worded).read_bytes()
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    side = tiny_base.unet.get_submodule(name.removeprefix("unet.")).weight.shape[0]
    lora = {f"{name}.lora_A.weight": torch.randn(2, side), f"{name}.lora_B.weight": torch.randn(side, 2)}
    save_file(lora, tmp_path / "style.safetensors")
    (styled,) = tether(*command, "--lora", f"{tmp_path / 'style.safetensors'}:0.5")
    assert Path(styled).read_bytes() != Path(plain).read_bytes()
    assert read_request(Path(styled)).loras == [f"{tmp_path / 'style.safetensors'}:0.5"]
    (again,) = tether("generate", "--again", styled, "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(styled).read_bytes()


def test_older_option_names_still_work(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    command = ("generate", "x", "--base", tiny_folder, "--init", photo, "--steps", 4, "-o")
    (older,) = tether(*command, tmp_path / "a", "--guidance", 3, "--denoise", 0.5, "--negative", "dark")
    names = ("--guidance-scale", 3, "--denoising-strength", 0.5, "--negative-prompt", "dark")
    (newer,) = tether(*command, tmp_path / "b", *names)
    assert Path(older).read_bytes() == Path(newer).read_bytes()
    request = read_request(Path(newer))
    assert (request.guidance_scale, request.denoising_strength, request.negative_prompt) == (3, 0.5, "dark")


def test_an_option_that_is_not_given_has_the_default_of_a_request(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = tether("generate", "x", "--base", tiny_folder, "--steps", 1, "-o", tmp_path)
    request = read_request(Path(path))
    given = {"prompt": "x", "base": str(tiny_folder), "steps": 1, "size": (64, 64), "versions": request.versions}
    given |= {"fingerprints": {str(tiny_folder): fingerprint(tiny_folder)}}
    given |= {"rules": RULES, "spacing": "trailing"}  # what one step of this base is drawn with
    assert request == Request(**given)


def test_a_request_of_an_older_version_is_repeated_as_it_was_written(tiny_folder: Path, tmp_path: Path) -> None:
    """The text of the repeated PNG is that of the first, key for key."""
    (path,) = tether("generate", "x", "--base", tiny_folder, "--steps", 2, "-o", tmp_path / "out")
    old = json.loads(request_text(Path(path)))
    old["strength"] = old.pop("denoising_strength")
    save_png(Image.open(path), tmp_path / "old.png", {"tether": json.dumps(old)})
    (again,) = tether("generate", "--again", tmp_path / "old.png", "-o", tmp_path / "again")
    assert Path(again).read_bytes() == (tmp_path / "old.png").read_bytes()


def test_an_image_repeated_in_less_memory_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    (_, path) = tether("generate", "x", "--base", tiny_folder, "--steps", 2, "--count", 2, "-o", tmp_path / "out")
    command = ["generate", "--again", path, "--low-memory", "-o", str(tmp_path / "again")]
    result = CliRunner().invoke(app, command)
    again = result.stdout.splitlines()[0]
    levels = [np.asarray(Image.open(one), int) for one in (path, again)]
    assert np.abs(levels[0] - levels[1]).max() <= 1
    differs = bool((levels[0] != levels[1]).any())  # another batch size and tiles may round differently
    assert (result.exit_code, "the image differs" in result.stderr) == (int(differs), differs)
    request = read_request(Path(again))
    assert (request.low_memory, request.seeds) == (True, [1])


NOWHERE = ("--base", "EMPTY")
"""A folder without a base: what is wrong besides is said before it is opened."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt, or --again FILE.png"),
        (["x", "--again", "/no/such.png"], "give only one of a prompt, --prompts FILE and --again FILE.png"),
        (["x", "--base", "/no/such/base"], "no base at /no/such/base"),
        (["x", "--control", "canny"], "'canny' is not a control: write KIND=IMAGE"),
        (["x", *NOWHERE, "--control", "canny=/no/such.png"], "no file /no/such.png"),
        (["x", *NOWHERE, "--condition", "canny=/no/such.png"], "no file /no/such.png"),
        (["x", "--control", "/no/such/control=PHOTO"], "no control .*at /no/such/control"),
        (["x", *NOWHERE, "--control", "canny=PHOTO:0.5@0.6-0.5"], r"must have 0 <= START < END <= 1"),
        (["x", *NOWHERE, "--control", "canny=PHOTO", "--weighting", "cfg"], "weighting is 'cfg'; it must be one of"),
        (["x", *NOWHERE, "--weighting", "1,x"], "'1,x' is not a weighting"),
        (["x", *NOWHERE, "--sides", "left"], "--sides left: write both, conditional, or a share"),
        (["x", *NOWHERE, "--control", "canny=PHOTO", "--sides", "1.5"], "sides is 1.5"),
        (["x", *NOWHERE, "--seed", "-1"], "'-1' is not a seed"),
        (["x", *NOWHERE, "--seed", "1,2", "--count", 3], "--seed already names every image: leave --count out"),
        (["x", *NOWHERE, "--scheduler", "dmp"], "unknown scheduler 'dmp': choose one of ddim, dpmpp-2m"),
        (["x", *NOWHERE, "--dtype", "float8"], "dtype: input should be 'float32', 'bfloat16' or 'float16'"),
        (["x", *NOWHERE, "--init", "PHOTO", "--fit", "squeeze"], "fit: input should be 'stretch', 'crop' or 'pad'"),
        (["x", *NOWHERE, "--prediction-type", "x"], "prediction_type: input should be 'epsilon' or 'v_prediction'"),
        (["x", *NOWHERE, "--guidance-scale", "nan"], "guidance_scale: input should be a finite number"),
        (
            ["x", *NOWHERE, "--init", "PHOTO", "--denoising-strength", 0],
            "denoising_strength: input should be greater than 0",
        ),
        (
            ["x", *NOWHERE, "--init", "PHOTO", "--denoise", 2],
            "denoising_strength: input should be less than or equal to 1",
        ),
        (["x", *NOWHERE, "--size", "0"], "'0' is not a size"),
        (["x", "--size", "60x64"], "multiples of 8 up to 4096, not 60x64"),
        (["x", "--size", "200000x200000", "--init", "PHOTO"], "multiples of 8"),
        (["x", *NOWHERE, "--init", "/no/such.png"], "no file /no/such.png"),
        (["x", *NOWHERE, "--mask", "PHOTO"], "--mask has nothing to act on: it needs --init"),
        (["x", *NOWHERE, "--init", "PHOTO", "--mask", "/no/such.png"], "no file /no/such.png"),
        (["x", *NOWHERE, "--init", "PHOTO", "--denoise", 0.01], "leave nothing to draw"),
        (["x", *NOWHERE, "--lora", ""], "'' is not a LoRA: write REF"),
        (["x", *NOWHERE, "--control", "canny=PHOTO,PHOTO", "--count", 3], "has 2 images for a count of 3: give one"),
        (["x", *NOWHERE, "--control", "canny=PHOTO,PHOTO", "--control", "canny=PHOTO,PHOTO,PHOTO"], "has 3 images for"),
        (["x", *NOWHERE, "--control", "canny=PHOTO,PHOTO", "--seed", "1,2,3"], "has 2 images for a count of 3"),
        (["x", *NOWHERE, "--control", "canny=PHOTO,/no/such.png"], "no file /no/such.png"),
        (["x", *NOWHERE, "--control", "canny=PHOTO*.gif"], "matches no file: check the pattern"),
        (["x", "--lora", "/no/such/lora"], "no LoRA at"),
        (["x", "--embedding", "/no/such/embedding"], "no embedding at"),
        (["x", "--vae", "/no/such/vae"], "no autoencoder at"),
        (["x", *NOWHERE, "--device", "gpu0"], "there is no device 'gpu0' here"),
        (["x", *NOWHERE, "-o", "PHOTO/in"], r"photo\.png/in cannot be written: .*photo\.png is not a writable folder"),
        (["x", "--scheduler", "lcm", "--steps", 51], "lcm takes from 1 to 50 steps, not 51"),
        ([b"caf\xe9".decode(errors="surrogateescape")], r"'caf\?' is not UTF-8"),
        (["--again", "/no/such.png"], "no file /no/such.png"),
        (["--again", "PHOTO"], "carries no Tether request"),
        (["--again", "PHOTO", "--seed", 3], "--seed changes the image: leave it out beside --again"),
        (["--again", "PHOTO", "--control", "canny=x.png"], "--control changes the image"),
        (["--again", "PHOTO", "--denoise", 0.5], "--denoise changes the image"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(
    arguments: list[object], message: str, photo: Path, tmp_path: Path
) -> None:
    (empty := tmp_path / "empty").mkdir()
    given = [str(argument).replace("PHOTO", str(photo)).replace("EMPTY", str(empty)) for argument in arguments]
    out = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    with pytest.raises(TetherError, match=message) as caught:
        tether("generate", *given, *out)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [empty, photo]


def test_what_has_no_effect_is_said_once_a_control_and_the_image_is_drawn(
    tiny_folder: Path, control: Path, photo: Path, tmp_path: Path
) -> None:
    command = [
        "generate",
        "x",
        "--base",
        tiny_folder,
        "--steps",
        2,
        "--count",
        2,
        "--low-memory",
        "-o",
        tmp_path / "out",
    ]
    steering = ["--control", f"{control}={photo}@0-0.04", "--control", f"{control}={photo}:0"]
    result = CliRunner().invoke(app, [str(argument) for argument in command + steering], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    said = [line for line in result.stderr.splitlines() if "no effect" in line]
    assert said == [
        f"control {control} (number 1) has no effect: none of the 2 steps lies in its window 0-0.04",
        f"control {control} (number 2) has no effect: its strength is 0",
    ]


def test_a_mask_that_is_an_alpha_channel_inpaints_what_it_covers(
    tiny_folder: Path, photo: Path, tmp_path: Path
) -> None:
    mask = Image.new("RGBA", (90, 70), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (45, 0, 90, 70))
    mask.save(tmp_path / "mask.png")
    images = ["--init", photo, "--mask", tmp_path / "mask.png", "--fit", "stretch", "-o", tmp_path / "out"]
    (path,) = tether("generate", "x", "--base", tiny_folder, "--steps", 2, "--denoising-strength", 1, *images)
    drawn, kept = np.asarray(Image.open(path)), np.asarray(fit(Image.open(photo), 64, 64, "stretch"))
    assert np.array_equal(drawn[:, :31], kept[:, :31])
    assert (drawn[:, 33:] != kept[:, 33:]).any(axis=2).mean() > 0.9
    (again,) = tether("generate", "--again", path, "-o", tmp_path / "again")
    assert Path(again).read_bytes() == Path(path).read_bytes()


def test_a_mask_of_another_shape_is_refused(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    Image.new("L", (70, 90)).save(tmp_path / "mask.png")
    with pytest.raises(TetherError, match="mask is 70x90, init 90x70"):
        tether("generate", "x", "--base", tiny_folder, "--init", photo, "--mask", tmp_path / "mask.png")


@pytest.mark.parametrize("transparent", [False, True])
def test_a_condition_of_lines_on_transparency_is_the_one_on_black(
    transparent: bool, tiny_folder: Path, control: Path, tmp_path: Path
) -> None:
    lines = Image.new("RGBA", (64, 64), (0, 0, 0, 0 if transparent else 255))
    lines.paste((255, 255, 255, 255), (20, 20, 50, 22))
    lines.save(tmp_path / "lines.png")
    command = [
        "generate",
        "x",
        "--base",
        tiny_folder,
        "--condition",
        f"{control}={tmp_path / 'lines.png'}",
        "--steps",
        1,
    ]
    (path,) = tether(*command, "-o", tmp_path)
    condition = read_request(Path(path)).controls[0].condition
    assert condition is not None
    assert condition.tobytes() == lines.convert("RGB").tobytes()


def test_controls_act_within_their_masks(tiny_folder: Path, control: Path, photo: Path, tmp_path: Path) -> None:
    for name, level in (("black", 0), ("white", 255)):
        Image.new("L", (64, 64), level).save(tmp_path / f"{name}.png")
    base = ["generate", "x", "--base", tiny_folder, "--steps", 2, "-o", tmp_path / "out"]
    steered = [*base, "--control", f"{control}={photo}"]

    def drawn(*arguments: object) -> bytes:
        return Image.open(tether(*arguments)[0]).tobytes()

    assert drawn(*steered, "--control-mask", tmp_path / "white.png") == drawn(*steered) != drawn(*base)
    assert drawn(*steered, "--control-mask", tmp_path / "black.png", "--mask-resize", "bilinear") == drawn(*base)
    two = [*steered, "--control", f"{control}={photo}:0.5"]
    masks = ["--control-mask", tmp_path / "white.png", "--control-mask", tmp_path / "black.png"]
    assert drawn(*two, *masks) == drawn(*steered)
    with pytest.raises(TetherError, match="2 controls need one --control-mask, or 2, not 3"):
        tether(*two, *masks, *masks[:2])
    with pytest.raises(TetherError, match="--mask-resize is for --control-mask"):
        tether(*steered, "--mask-resize", "area")
    with pytest.raises(TetherError, match="--control-mask is for controls"):
        tether(*base, *masks[:2])
