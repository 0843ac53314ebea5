"""One table of the names under which people store images, conditions and captions, and the options that override it.

A name is a column, a key of a record, a folder, or the mark in a file's name (`0_control.png`, `0.control.png`).
Case, "-" for "_", a plural "s" and an ending such as `_file_name` do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, Literal, get_args

from tether.errors import TetherError
from tether.files.listing import IMAGE_SUFFIXES

__all__ = [
    "CAPTION_NAMES",
    "CONDITION_NAMES",
    "IMAGE_NAMES",
    "IMAGE_SUFFIXES",
    "NONE",
    "UNREAD_SUFFIXES",
    "Captions",
    "Reading",
    "caption_values",
    "captions_of",
    "find_names",
    "has_image_suffix",
    "normal",
    "refuse_unused",
    "unmarked",
]

UNREAD_SUFFIXES = (
    "heic", "heif", "jxl", "jp2", "j2k", "psd", "svg", "exr", "hdr", "dng", "cr2", "nef", "arw", "raw", "ico", "eps",
    "pcx", "xcf", "jpx", "dds",
)  # fmt: skip
"""Files that are images, but of formats that are not read: they are counted as left out."""

IMAGE_NAMES = (
    "file_name", "filename", "image", "target", "img", "picture", "photo", "original_image", "target_image",
    "ground_truth", "gt", "jpg", "jpeg", "png", "webp", "path", "file",
)  # fmt: skip
CONDITION_NAMES = (
    "condition", "conditioning", "conditioning_image", "condition_image", "conditional_image", "condtioning_image",
    "cond", "cond_image", "hint", "hint_image", "control", "control_image", "controlnet_image", "control_map",
    "condition_map", "guide", "guide_image", "guidance_image",
)  # fmt: skip
CAPTION_NAMES = ("text", "caption", "prompt", "image_caption", "description", "tag")

NONE = "none"
"""As a column or folder: there is none."""

Captions = Literal["one", "all", "none"]

_ENDINGS = ("_file_name", "_filename", "_file_path", "_filepath", "_path", "_file")


@dataclass(frozen=True)
class Reading:
    """How a source's names are read; by default by the table of this module.

    Attributes:
        image_column, caption_column, condition_column: a column of a table, a key of a record, or the mark in a
            file's name: "control" for `0_control.png` or `0.control.png`. A condition of "none" leaves all out.
        condition_folder: the folder of the conditions, which have their images' names; "none": there is none.
        captions: of an image with several captions. "one": one at random each time it is trained on; "all": all
            joined by commas; "none": no caption is read, the prompts are empty.
        split: the only split that is read, or "all"; by default "train" where the source has one.

    Raises:
        TetherError: for an unknown value of `captions`.
    """

    image_column: str | None = None
    caption_column: str | None = None
    condition_column: str | None = None
    condition_folder: str | None = None
    captions: Captions = "one"
    split: str | None = None

    def __post_init__(self) -> None:
        if self.captions not in get_args(Captions):
            raise TetherError(f"captions is {self.captions!r}: choose one of {', '.join(get_args(Captions))}")

    def refuse_folder(self, layout: str) -> None:
        """Raises a TetherError if a folder of conditions is named for a layout that has none."""
        if self.condition_folder not in (None, NONE):
            raise TetherError(
                f"a folder of conditions ({self.condition_folder}) does not apply to {layout}: name the conditions "
                "with --condition-column NAME"
            )

    @property
    def no_conditions(self) -> bool:
        """Whether conditions that look like such are to be left out."""
        return NONE in (self.condition_column, self.condition_folder)

    def given(self) -> dict[str, str]:
        """The options that are not the default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def normal(name: str) -> str:
    """A name as it is in the table: "Conditioning-Images" -> "conditioning_image"."""
    plain = name.casefold().replace("-", "_").replace(" ", "_").strip("_")
    plain = next((plain.removesuffix(end) for end in _ENDINGS if plain.endswith(end) and plain != end[1:]), plain)
    return plain.removesuffix("s") if plain.endswith("s") and not plain.endswith("ss") else plain


def find_names(present: Iterable[str], table: tuple[str, ...], given: str | None, what: str) -> tuple[str, ...]:
    """The names that mean something, in the order of the table, or the one that is given.

    Args:
        present: all names of the source.
        table: the names to look for.
        given: the name that the user gave; "none" finds nothing.
        what: "image", "caption" or "condition", for messages.

    Raises:
        TetherError: when the given name is not present.
    """
    present = list(present)
    if given == NONE:
        return ()
    if given is not None:
        if given not in present:
            raise TetherError(f"there is no {what} column {given!r}: the source has {', '.join(sorted(present))}")
        return (given,)
    return tuple(name for known in table for name in present if normal(name) == known)


def unmarked(stem: str, table: tuple[str, ...]) -> str | None:
    """A file's stem without a mark of the table before or after it: "0_control" -> "0"; None when it has none."""
    for index, letter in enumerate(stem):
        if letter in "._-":
            head, tail = stem[:index], stem[index + 1 :]
            if head and normal(tail) in table:
                return head
            if tail and normal(head) in table:
                return tail
    return None


def refuse_unused(names: Iterable[str], where: object, option: str) -> None:
    """Raises a TetherError when there are names that look like conditions and would not be used."""
    if listed := ", ".join(sorted(names)):
        raise TetherError(
            f"{where}: {listed} may hold conditions, and would not be used: name them with {option} NAME, or give "
            f"{option} {NONE} to train without them"
        )


def caption_values(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions in a record: those under the first usual key that has any."""
    found = (captions_of(record[key]) for known in CAPTION_NAMES for key in record if normal(key) == known)
    return next((captions for captions in found if captions), ())


def captions_of(value: Any) -> tuple[str, ...]:
    """The captions in a value of a record: a string, or a list of strings; others are left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(one for one in values if isinstance(one, str) and one.strip())


def has_image_suffix(name: Any) -> bool:
    """Whether a value is the name of an image file."""
    return isinstance(name, str) and PurePath(name).suffix[1:].lower() in IMAGE_SUFFIXES
