"""The grammar of the options of `tether generate`, parsed without importing anything heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any, Literal

from tether.control.schedule import NUMBER, SCHEDULE_PATTERN, Schedule, parse_strength, with_window
from tether.errors import TetherError

__all__ = [
    "ControlArgument",
    "as_utf8",
    "parse_control",
    "parse_seeds",
    "parse_sides",
    "parse_size",
    "parse_weighting",
    "parse_window",
    "refuse_other_bytes",
]

WINDOW = rf"(?P<start>{NUMBER})-(?P<end>{NUMBER})"
STEERING = re.compile(rf"(?P<image>.+?)(?:@{WINDOW}|:(?P<strength>{SCHEDULE_PATTERN}))?")


SETTINGS = ("weighting", "sides", "mask", "mask_resize", "annotator", "kind", "invert", "window", "every", "tolerance")
"""Fields of `tether.sampling.ControlRequest` that an argument may set; any other name is an option of the annotator."""
SETTING = re.compile(r",(?=[a-z_]+=)")


@dataclass(frozen=True)
class ControlArgument:
    """One `KIND=IMAGE[:STRENGTH][@START-END][,NAME=VALUE...]`.

    Attributes:
        ref, image, strength, window: its parts; the image may be several, see `tether.cli.sources.image_files`, and the
            strength a schedule.
        settings: further fields of a `ControlRequest`; its mask is a path.
        options: of the annotator.
    """

    ref: str
    image: Path
    strength: float | Schedule
    window: tuple[float, float]
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)


def parse_control(text: str) -> ControlArgument:
    """Parses `KIND=IMAGE[:STRENGTH][@START-END][,NAME=VALUE...]`, for example
    `canny=photo.jpg:0.8@0-0.6,weighting=cfg-rw,mask=left.png,low=50`.

    Raises:
        TetherError: when the text has another form.
    """
    whole, *settings = [text] if _exists(text.partition("=")[2]) else SETTING.split(text)
    argument = _parse_image(whole)
    window = argument.window
    read: dict[str, Any] = {}
    options: dict[str, float] = {}
    for one in settings:
        name, _, value = one.partition("=")
        if name == "window":
            if window != (0, 1):
                raise TetherError(f"{text!r} has two windows: write @START-END or window=START-END")
            window = parse_window(value, f"window={value} in {text!r}", "window=0-0.6")
            continue
        if name in SETTINGS:
            read[name] = _parse_setting(name, value)
            continue
        try:
            options[name] = float(value)
        except ValueError:
            known = ", ".join(SETTINGS)
            raise TetherError(
                f"{one!r} is not a setting of a control: write {known}, or an option of its annotator with a number"
            ) from None
    strength, window = with_window(argument.strength, window)
    return replace(argument, strength=strength, window=window, settings=read, options=options)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:
        return False


def _names_images(text: str) -> bool:
    """Whether a text names what is there: a file, a folder, a pattern, or several with commas between."""
    parts = [text] if _exists(text) else text.split(",")
    return all(
        _exists(one) or (any(sign in one for sign in "*?[") and bool(glob(one, recursive=True))) for one in parts
    )


def _parse_setting(name: str, value: str) -> Any:
    if name == "weighting":
        return parse_weighting(value)
    if name == "sides":
        return parse_sides(value)
    if name == "mask":
        return Path(value)
    if name == "every":
        if not re.fullmatch(r"[1-9]\d{0,3}", value):
            raise TetherError(f"every={value}: write a whole number from 1, such as every=2")
        return int(value)
    if name == "tolerance":
        if not re.fullmatch(NUMBER, value):
            raise TetherError(f"tolerance={value}: write a number from 0 to below 1, such as tolerance=0.2")
        return float(value)
    if name == "invert":
        if value not in ("true", "false"):
            raise TetherError(f"invert={value}: write true or false")
        return value == "true"
    return value


def _parse_image(text: str) -> ControlArgument:
    """Parses the part before the settings."""
    readings = [
        (text[:at], match)
        for at, sign in enumerate(text)
        if at and sign == "=" and (match := STEERING.fullmatch(text[at + 1 :]))
    ]
    if not readings:
        raise TetherError(
            f"{text!r} is not a control: write KIND=IMAGE[:STRENGTH][@START-END][,NAME=VALUE], such as "
            "canny=photo.jpg:0.8@0-0.6"
        )
    # A folder of runs may be named "lr=1e-4": the first "=" that is followed by images, or else follows a control that
    # is there, ends the control.
    followed = (one for one in readings if _names_images(one[1]["image"]))
    following = (one for one in readings if _exists(one[0]))
    kind, match = next(followed, None) or next(following, readings[0])
    image, colon, rest = match["image"].rpartition(":")
    if colon and _names_images(image) and not _names_images(match["image"]):
        parse_strength(rest)  # says what is wrong with it
    window = (float(match["start"] or 0), float(match["end"] or 1))
    return ControlArgument(kind, Path(match["image"]), parse_strength(match["strength"] or "1"), window)


def parse_window(value: str, what: str, example: str) -> tuple[float, float]:
    """Parses START-END.

    Raises:
        TetherError: with `what` was written and an example of it, when the text has another form.
    """
    match = re.fullmatch(WINDOW, value)
    if match is None:
        raise TetherError(f"{what}: write START-END, shares of the steps, such as {example}")
    return float(match["start"]), float(match["end"])


def parse_size(text: str) -> tuple[int, int]:
    """Parses `WIDTHxHEIGHT`, or one number for a square.

    Raises:
        TetherError: when the text has another form.
    """
    match = re.fullmatch(r"([1-9]\d{0,9})(?:x([1-9]\d{0,9}))?", text)
    if match is None:
        raise TetherError(f"{text!r} is not a size: write WIDTHxHEIGHT, such as 512x768")
    return int(match[1]), int(match[2] or match[1])


def parse_seeds(text: str) -> int | list[int]:
    """Parses one seed, or several separated by commas.

    Raises:
        TetherError: when the text has another form.
    """
    if not re.fullmatch(r"\d{1,20}(,\d{1,20})*", text):
        raise TetherError(f"{text!r} is not a seed: write a whole number from 0, or several separated by commas")
    seeds = [int(part) for part in text.split(",")]
    return seeds if len(seeds) > 1 else seeds[0]


def parse_weighting(text: str) -> str | list[float]:
    """Parses the name of a weighting, or weights separated by commas, one for each injection point.

    Raises:
        TetherError: when one of several weights is not a number.
    """
    if "," not in text:
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise TetherError(f"{text!r} is not a weighting: write a name, or numbers separated by commas") from None


def parse_sides(text: str) -> Literal["both", "conditional"] | float:
    """Parses the CFG branches that a control acts on: a name, or the unconditional branch's share.

    Raises:
        TetherError: when the text has another form.
    """
    if text == "both" or text == "conditional":
        return text
    if re.fullmatch(NUMBER, text):
        return float(text)
    raise TetherError(f"--sides {text}: write both, conditional, or a share from 0 to 1")


def as_utf8(text: str) -> str:
    """The text with a "?" for each byte that is not UTF-8; file names may have such bytes."""
    return text.encode("utf-8", "replace").decode()


def refuse_other_bytes(texts: list[str]) -> None:
    """Raises a TetherError for the first text that is not UTF-8, as the JSON of a request is."""
    for text in texts:
        if as_utf8(text) != text:
            shown = as_utf8(text)
            raise TetherError(f"{shown!r} is not UTF-8, which the metadata of an image needs: give it another name")
