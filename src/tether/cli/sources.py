"""The files that a command reads and writes, checked before anything heavy is imported."""

from __future__ import annotations

import os
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from tether.errors import TetherError
from tether.files.listing import IMAGE_SUFFIXES
from tether.files.paths import local_path, name_on_hub

__all__ = [
    "SUFFIXES",
    "check_control",
    "check_folder",
    "check_input",
    "check_model",
    "check_not_input",
    "check_replaceable",
    "image_files",
    "is_image_file",
    "made_by",
    "same_file",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of the images that are written."""


def is_image_file(path: Path) -> bool:
    """Whether a name is that of an image to write, not of a folder for images.

    Raises:
        TetherError: when it is that of an image which is not written: of another format, or too long.
    """
    try:
        if path.suffix[1:].lower() not in IMAGE_SUFFIXES or path.is_dir():
            return False
    except OSError as error:
        raise TetherError(f"{_short(path)} cannot be written: {error.strerror}") from None
    if path.suffix.lower() not in SUFFIXES:
        raise TetherError(f"{_short(path)} cannot be written: the name must end in {', '.join(SUFFIXES)}")
    return True


def check_input(path: Path, expected: str = "an image file") -> None:
    """Raises a TetherError that says what was expected, unless the path is a file."""
    try:
        if path.is_dir():
            raise TetherError(f"{path} is a folder: expected {expected}")
        if not path.exists():
            raise TetherError(f"there is no file {path}: check the path")
    except OSError as error:
        raise TetherError(f"there is no file {_short(path)}: {error.strerror}") from None


def image_files(path: Path) -> list[Path]:
    """The files of an argument: one, several with commas between, or those that a pattern matches, by name.

    Raises:
        TetherError: when one does not exist, or a pattern matches none.
    """
    found: list[Path] = []
    for text in [str(path)] if _exists(path) else str(path).split(","):
        if any(sign in text for sign in "*?[") and not _exists(Path(text)):
            matched = sorted(one for one in glob(text, recursive=True) if not Path(one).is_dir())
            if not matched:
                raise TetherError(f"{text} matches no file: check the pattern")
            found += [Path(one) for one in matched]
        else:
            check_input(Path(text))
            found.append(Path(text))
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one existing file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def check_not_input(out: Path, inputs: list[Path], option: str) -> None:
    """Raises a TetherError when an output is one of the inputs."""
    if any(same_file(out, one) for one in inputs):
        raise TetherError(f"{option} {out} is an input, which would be lost: give another name")


def check_folder(path: Path, option: str = "--out") -> None:
    """Refuses a folder that nothing can be written into, without making it.

    Raises:
        TetherError: when it is a file, its name is too long, or it or its nearest existing parent is not writable.
    """
    try:
        if path.exists() and not path.is_dir():
            raise TetherError(f"{option} {path} is a file: give a folder")
        nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
        writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
        too_long = [part for part in path.parts if len(os.fsencode(part)) > 255]
    except OSError as error:
        raise TetherError(f"{option} {_short(path)} cannot be written: {error.strerror}") from None
    if too_long:
        raise TetherError(f"{option} {_short(path)} cannot be written: a name has more than 255 bytes")
    if not writable:
        raise TetherError(f"{option} {path} cannot be written: {nearest} is not a writable folder")


def made_by(command: str) -> dict[str, str]:
    """The PNG text of a command's own output, by which it may be replaced; "Software" is a key of the PNG standard."""
    return {"Software": f"tether {command}"}


def check_replaceable(path: Path, command: str, option: str = "--out", *, force: bool = False) -> None:
    """Refuses to replace a file that the command has not written itself.

    Args:
        path: a PNG to write.
        command: which writes it with the text of `made_by`.
        option: the option that names it, for messages.
        force: replace any file.

    Raises:
        TetherError: when the name does not end in .png, or something else is there.
    """
    if path.suffix.lower() != ".png":
        raise TetherError(f"{option} {_short(path)} cannot be written: the name must end in .png")
    if path.is_dir():
        raise TetherError(f"{option} {_short(path)} is a folder: give the name of a PNG")
    if force or not path.exists():
        return
    from PIL import Image

    try:
        if path.is_file():  # reading a pipe would wait for ever
            with Image.open(path, formats=["PNG"]) as image:
                if image.info.get("Software") == made_by(command)["Software"]:
                    return
    except (OSError, SyntaxError, ValueError):
        pass
    raise TetherError(
        f"{option} {_short(path)} exists, and does not say that `tether {command}` wrote it: give another name"
        + ("" if command.endswith("--preview") else ", or --force")
    )


def check_model(ref: str, what: str) -> None:
    """Refuses a model that is neither a path nor a name that the hub could have.

    Args:
        ref: what `tether.load_base`, or another function that opens a model, takes.
        what: "base", "LoRA", ..., for messages.

    Raises:
        TetherError: naming what is there with nearly that name.
    """
    if local_path(ref) is None and ref != "tether":
        name_on_hub(ref, what)


def check_control(ref: str) -> None:
    """Refuses a control that is neither shipped, nor a path, nor a name that the hub could have.

    Raises:
        TetherError: naming the closest shipped control.
    """
    from tether.kinds import find_kind
    from tether.weights import shipped_control, shipped_controls, split_kind

    if shipped_control(ref) or shipped_control(find_kind(ref).name) or local_path(ref) is not None:
        return
    known, (ref, _) = shipped_controls(), split_kind(ref)
    if local_path(ref) is not None:
        return
    if "/" in ref or "\\" in ref:
        name_on_hub(ref, f"control (shipped: {', '.join(known) or 'none'})")
        return
    close = get_close_matches(ref, known, n=1)
    meant = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known) or 'none'}; or give a path"
    raise TetherError(f"there is no control {ref[:60]!r}: {meant}")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
