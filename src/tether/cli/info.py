"""`tether info`: the installed versions, the device, and the shipped weights; or what an image was made from."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from tether.cli.sources import check_input
from tether.files.versions import version_of

__all__ = ["info"]

PACKAGES = (
    "tether-control",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "opencv-python-headless",
)


def info(
    file: Annotated[
        Path | None,
        typer.Argument(help="A picture that Tether drew, as PNG: shows what it was made from.", show_default=False),
    ] = None,
) -> None:
    """Show versions, the device, and the shipped weights; or what an image was made from."""
    if file is not None:
        _show_image(file)
        return
    from tether.kinds import annotator_names
    from tether.weights import shipped, shipped_control, shipped_controls

    for name in PACKAGES:
        _print(name, version_of(name))
    _print("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    _print("device", _device())
    _print("shipped base", _size(shipped("base")))
    for kind in shipped_controls():
        folder, _ = shipped_control(kind) or (shipped(f"control-{kind}"), kind)
        _print(f"shipped control {kind}", _size(folder))
    _print("annotators", ", ".join(annotator_names()))


def _show_image(file: Path) -> None:
    """Prints a request, without the images in it."""
    check_input(file, "a PNG that Tether wrote")
    from tether.sampling.request import read_request

    request = read_request(file)
    values = request.model_dump(mode="json", exclude={"controls", "init", "mask"})
    for name, value in values.items():
        if value not in (None, [], {}, ""):
            _print(name, str(value))
    for name in ("init", "mask"):
        image = getattr(request, name)
        if image is not None:
            _print(name, f"image of {image.width}x{image.height}")
    for entry in request.controls:
        kept = entry.model_dump(mode="json", exclude={"condition", "photo", "mask"}, exclude_defaults=True)
        kept |= {"mask": "image"} if entry.mask is not None else {}
        _print("control", ", ".join(f"{name} {value}" for name, value in kept.items()))


def _print(name: str, text: str) -> None:
    print(f"{name:24} {text}")


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    return f"{size:.0f} MB in {folder}"
