"""Opens a control of any family: a shipped one, a path, or a name on the Hugging Face Hub."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from tether.control.control import Control, Steerable, families, family
from tether.control.store import family_of_folder, share_equal, trained
from tether.files.folder import NOTES, STEMS
from tether.files.hub import fetch_beside, find
from tether.kinds import find_kind
from tether.weights import shipped_control, shipped_controls, split_kind

__all__ = ["find_control", "find_with_settings", "load_control"]


def load_control(
    ref: str | Path,
    *,
    base: Steerable | None = None,
    kind: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> Control:
    """Opens a control for inference. Its family is recognized from its files.

    Args:
        ref: the kind of a shipped control ("canny", or "union:depth" for that of the shipped union), the path of a
            folder or file, a training run's folder or one of its checkpoints (a run's control, or that of its latest
            checkpoint), or a name on the Hub ("owner/name", "owner/name/file.safetensors", with "@revision" or
            without). With ":KIND" after it, that kind of a union.
        base: the base it will be used with: checked to fit, and what a ControlNet's difference file is added to.
            Parameters that are bitwise equal to the base's, as in an untrained ControlNet, share its storage, so open
            a control that will be trained without `base`.
        kind: the kind of its condition images; by default as saved, or guessed from the name. Of a union it is the one
            that is wanted; without it the union itself is opened, which cannot draw.
        dtype: what the weights are cast to.
        device: where they are put.
        revision: branch, tag or commit of a name on the Hub.

    Raises:
        TetherError: when nothing is at `ref`, no family recognizes it, it is damaged, or it does not fit `base`.
    """
    path, named = find_control(ref, revision)
    kind = kind or named
    control = family_at(path).read(
        path,
        base=base,
        kind=kind,
        name=None if Path(ref).exists() else str(ref),  # the names of a path's folders say nothing
        dtype=dtype,
    )
    control.name = str(ref)
    if kind is None and len(control.kinds) == 1:
        kind = control.kinds[0]
    if kind is not None:
        control = control.of_kind(kind)
    control.name = str(ref)
    control.to(device).eval().requires_grad_(False)
    if base is not None:
        control.check_fits(base)
        share_equal(control, base.denoiser.network)
    return control


def find_control(ref: str | Path, revision: str | None = None) -> tuple[Path, str | None]:
    """Where a control is, and the kind that `ref` names, if it does.

    Args:
        ref, revision: as for `load_control`.

    Raises:
        TetherError: when nothing is at `ref`.
    """
    found = shipped_control(str(ref)) or shipped_control(find_kind(str(ref)).name)  # by another name of its kind
    if found is not None:
        return found
    ref, kind = split_kind(ref)
    shipped_ones = ", ".join(shipped_controls()) or "none"
    what = f"control (shipped: {shipped_ones})"
    return trained(find_with_settings(ref, what, revision)), kind


def find_with_settings(ref: str | Path, what: str, revision: str | None = None) -> Path:
    """`tether.files.hub.find`, with the config.json and tether.json beside a file of the hub that are its own.

    Those beside a file of another name may be another's; see `tether.control.files`.
    """
    path = find(ref, what, revision)
    if path.name.startswith(STEMS) and fetch_beside(ref, "config.json", what, revision):
        fetch_beside(ref, NOTES, what, revision)
    return path


def family_at(path: Path) -> type[Control]:
    """The family that recognizes a folder or file; ControlNet, whose layouts are many, where no other does.

    Raises:
        TetherError: when the folder names a family that is not installed.
    """
    named = family_of_folder(path)
    if named is not None:
        return family(named)
    default = family("controlnet")
    for cls in families().values():
        if cls is not default and _recognizes(cls, path):
            return cls
    return default


def _recognizes(cls: type[Control], path: Path) -> bool:
    try:
        return cls.recognizes(path)
    except Exception as error:  # a broken family must not break the others
        line = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f"control family {cls.family!r} failed to look at {path}: {line}", stacklevel=3)
        return False
