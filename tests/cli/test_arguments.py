"""The grammar of options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.cli.arguments import (
    as_utf8,
    parse_control,
    parse_seeds,
    parse_sides,
    parse_size,
    parse_weighting,
    refuse_other_bytes,
)
from tether.errors import TetherError


@pytest.mark.parametrize(
    ("text", "ref", "image", "strength", "window"),
    [
        ("canny=photo.jpg", "canny", "photo.jpg", 1.0, (0.0, 1.0)),
        ("canny=photo.jpg:0.8", "canny", "photo.jpg", 0.8, (0.0, 1.0)),
        ("canny=photo.jpg@0.1-0.6", "canny", "photo.jpg", 1.0, (0.1, 0.6)),
        ("canny=a/b.png:.5@0-.75", "canny", "a/b.png", 0.5, (0.0, 0.75)),
        ("runs/a/control=C:/x.png:2", "runs/a/control", "C:/x.png", 2.0, (0.0, 1.0)),
    ],
)
def test_the_control_grammar(text: str, ref: str, image: str, strength: float, window: tuple) -> None:
    argument = parse_control(text)
    assert (argument.ref, argument.image, argument.strength, argument.window) == (ref, Path(image), strength, window)


@pytest.mark.parametrize(
    ("text", "strength", "window", "settings"),
    [
        ("canny=photo.jpg:0.2@0-0.3,0.6@0.3-1", "0.2@0-0.3,0.6@0.3-1", (0.0, 1.0), {}),
        ("canny=photo.jpg:0.2@0-0.3,0.6@0.3-1,sides=0.6", "0.2@0-0.3,0.6@0.3-1", (0.0, 1.0), {"sides": 0.6}),
        ("canny=photo.jpg:0.2-0.8@0-0.5", "0.2-0.8@0-0.5", (0.0, 1.0), {}),
        ("canny=photo.jpg:0.2-0.8,window=0.1-0.9", "0.2-0.8", (0.1, 0.9), {}),
        ("canny=photo.jpg:0.2@0-0.3,window=0.1-1", "0.2", (0.1, 0.3), {}),
    ],
)
def test_a_strength_may_be_a_schedule(text: str, strength: str, window: tuple, settings: dict) -> None:
    argument = parse_control(text)
    assert argument.image == Path("photo.jpg")
    assert (str(argument.strength), argument.window, argument.settings) == (strength, window, settings)


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ("0.2@0-0.5,0.6@0.4-1", "0.2@0-0.5 and 0.6@0.4-1 overlap"),
        ("0.2@0-0.5,0.6", "each of several parts needs its @START-END"),
        ("0.2@0-0.5,window=0.6-1", "lies outside of the window"),
        ("0.2,window=0.6", "window=0.6 in .*: write START-END"),
        ("1,window=0-0.5,window=0.5-1", "has two windows"),
        ("much", "cannot be read"),
    ],
)
def test_a_strength_that_cannot_be_read_is_named(strength: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(TetherError, match=message):
        parse_control(f"canny={tmp_path / 'photo.png'}:{strength}")


@pytest.mark.parametrize("text", ["canny", "=x.png", "canny="])
def test_a_malformed_control_is_refused(text: str) -> None:
    with pytest.raises(TetherError, match="KIND=IMAGE"):
        parse_control(text)


def test_an_equals_sign_in_the_path_of_a_control_is_no_end_of_it(tmp_path: Path) -> None:
    (tmp_path / "a=b.png").touch()
    argument = parse_control(f"runs/lr=1e-4/control={tmp_path / 'a=b.png'}:0.5")
    assert (argument.ref, argument.image) == ("runs/lr=1e-4/control", tmp_path / "a=b.png")
    assert parse_control("canny=no/such=file.png").ref == "canny"


@pytest.mark.parametrize("images", ["photos", "photos/", "photos/*.png", "photos/a.png,photos/b.png", "photos/b=?.png"])
def test_an_equals_sign_in_the_path_of_a_control_goes_with_all_that_names_images(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a", "b", "b=c"):
        Path("photos", f"{name}.png").touch()
    argument = parse_control(f"lr=1e-4/control={images}:0.5,low=30")
    assert (argument.ref, argument.image, argument.strength) == ("lr=1e-4/control", Path(images), 0.5)
    assert parse_control(f"canny={images}").ref == "canny"


def test_without_images_a_control_that_is_there_says_where_its_path_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1e-4/control").mkdir(parents=True)
    argument = parse_control("lr=1e-4/control=photo.png")
    assert (argument.ref, argument.image) == ("lr=1e-4/control", Path("photo.png"))


def test_sizes() -> None:
    assert parse_size("512x768") == (512, 768)
    assert parse_size("64") == (64, 64)


@pytest.mark.parametrize("text", ["axb", "12x", "-5", "0", "", "8x0", "8" * 5000])
def test_a_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(TetherError, match=f"'{text}' is not a size: write WIDTHxHEIGHT"):
        parse_size(text)


def test_weightings() -> None:
    assert parse_weighting("cfg-rw") == "cfg-rw"
    assert parse_weighting("1,0.5,0") == [1.0, 0.5, 0.0]
    with pytest.raises(TetherError, match="'1,x' is not a weighting"):
        parse_weighting("1,x")


def test_seeds() -> None:
    assert parse_seeds("7") == 7
    assert parse_seeds("7,21,4") == [7, 21, 4]


@pytest.mark.parametrize("text", ["-1", "", "1,", "a", "1.5", "1" * 5000])
def test_a_malformed_seed_is_refused(text: str) -> None:
    with pytest.raises(TetherError, match=f"'{text}' is not a seed"):
        parse_seeds(text)


def test_texts_that_are_not_utf_8_are_refused() -> None:
    odd = b"caf\xe9".decode(errors="surrogateescape")
    assert as_utf8(odd) == "caf?"
    refuse_other_bytes(["café", ""])
    with pytest.raises(TetherError, match=r"'caf\?' is not UTF-8"):
        refuse_other_bytes(["x", odd])


def test_sides() -> None:
    assert [parse_sides(text) for text in ("both", "conditional", "0.75", ".5", "1")] == [
        "both",
        "conditional",
        0.75,
        0.5,
        1.0,
    ]
    for wrong in ("left", "-0.5", "nan", ""):
        with pytest.raises(TetherError, match="share from 0 to 1"):
            parse_sides(wrong)


def test_a_control_has_settings_under_the_names_of_the_request(tmp_path: Path) -> None:
    one = parse_control("canny=c.png:0.8@0-0.6,weighting=0,0.5,1,sides=0.3,mask=m.png,mask_resize=bilinear,low=50")
    assert (one.ref, one.image, one.strength, one.window) == ("canny", Path("c.png"), 0.8, (0, 0.6))
    assert one.settings == {
        "weighting": [0.0, 0.5, 1.0],
        "sides": 0.3,
        "mask": Path("m.png"),
        "mask_resize": "bilinear",
    }
    assert one.options == {"low": 50.0}
    odd = tmp_path / "a,low=3"
    odd.touch()
    assert parse_control(f"canny={odd}").image == odd
    with pytest.raises(TetherError, match="'low=x' is not a setting of a control"):
        parse_control("canny=c.png,low=x")
    with pytest.raises(TetherError, match="invert=yes: write true or false"):
        parse_control("canny=c.png,invert=yes")
