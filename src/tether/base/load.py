"""Opens a base: the shipped one, a diffusers folder, a single file, or a name on the hub."""

from __future__ import annotations

from pathlib import Path

import torch

from tether.base.base import Base
from tether.base.folder import part_of_folder, parts_of_folder
from tether.base.parts import Part, Parts
from tether.base.single_file import parts_of_file, vae_of_file
from tether.errors import TetherError
from tether.files.folder import is_base_folder
from tether.files.hub import find
from tether.weights import shipped

__all__ = ["base_parts", "load_base"]

SHIPPED = "tether"


def load_base(
    ref: str | Path = SHIPPED,
    *,
    vae: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    prediction_type: str | None = None,
    light: bool = False,
    engine: str = "eager",
) -> Base:
    """Opens a base, locked and ready for inference.

    There is one copy of the weights in memory. On the CPU, weights that already have `dtype` are mapped from the file.

    Args:
        ref: "tether" for the shipped base, the path of a diffusers folder, the path of a single `.safetensors` or
            `.ckpt` file of Stable Diffusion 1.x, 2.x or XL, or a name on the hub ("owner/name" or
            "owner/name/file.safetensors", with or without "@revision").
        vae: an autoencoder to use instead of the base's own: a folder, a file, or a name on the hub.
        dtype: what the weights are cast to.
        device: where they are put.
        revision: a branch, tag or commit of a name on the hub.
        prediction_type: "epsilon" or "v_prediction", to override what the base's files say.
        light: text encoders and tokenizers of Tether's own, which encode prompts to the same states without importing
            transformers; they are no objects of transformers, which a pipeline of diffusers expects. Where Tether has
            none for this base, those of transformers.
        engine: what a `tether.Pipeline` computes the base and its controls with: "eager", "compile", "openvino", or
            "auto"; see docs/performance.md.

    Raises:
        TetherError: if there is nothing at `ref`, or it is not a base, or it is damaged or hostile.
    """
    parts, path = base_parts(ref, vae=vae, revision=revision, prediction_type=prediction_type, light=light)
    if str(ref) == SHIPPED:
        parts.family = "bundled"
    name = SHIPPED if str(ref) == SHIPPED else _name(ref, path)
    base = parts.materialize(dtype, name, path).to(device)
    base.engine = engine
    return base


def base_parts(
    ref: str | Path,
    *,
    vae: str | Path | None = None,
    revision: str | None = None,
    prediction_type: str | None = None,
    light: bool = False,
) -> tuple[Parts, Path]:
    """The networks of a base, mapped and not yet in memory, and its path; arguments and errors as of `load_base`."""
    path = shipped("base") if str(ref) == SHIPPED else find(ref, "base", revision)
    own_vae = None if vae is None else _vae(vae)
    if path.is_dir():
        return parts_of_folder(path, vae=own_vae, prediction_type=prediction_type, light=light), path
    return parts_of_file(path, vae=own_vae, prediction_type=prediction_type, light=light), path


def _name(ref: str | Path, path: Path) -> str:
    """Its name in messages: that of the folder, of the file without suffix, or on the hub."""
    if path != Path(ref).expanduser():
        return str(ref)
    return path.name if path.is_dir() else path.stem


def _vae(ref: str | Path) -> Part:
    """An autoencoder from a folder (its own, or a base's), a file, or the hub."""
    path = find(ref, "autoencoder")
    if not path.is_dir():
        return vae_of_file(path)
    part = part_of_folder(path / "vae" if is_base_folder(path) else path)
    if part.config.get("_class_name") != "AutoencoderKL":
        raise TetherError(f"{path}: expected an autoencoder, found a {part.config.get('_class_name')}")
    return part
