"""Converts bases and controls between layouts: `tether convert IN OUT --to diffusers|original`.

    diffusers   a folder with a config and weights for each network
    original    one file, with the names of Stable Diffusion's own code (LDM)

The tensors that are written are those that were read, bit for bit, unless another dtype or a transfer is asked for. The
target is written completely or not at all, and only replaced with `force`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tether.base.folder import ORIGINAL_ONLY
from tether.base.load import SHIPPED, base_parts
from tether.base.parts import Part, Parts
from tether.control.architecture import default_settings
from tether.control.files import SETTINGS, UNSHAPED, ControlPart, control_of, is_control_folder
from tether.control.load import find_control
from tether.control.store import NOTES, family_of_folder, notes, trained
from tether.control.transfer import transferred
from tether.control.union import UnionControlNet, union_part
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import is_base_folder
from tether.files.hub import find
from tether.files.paths import SUFFIXES, local_path
from tether.files.writing import (
    check_may_replace,
    replacing,
    write_json,
    write_safetensors,
    write_tokenizer,
    write_torch,
)
from tether.formats.families import UNET, VAE, family_settings
from tether.formats.names import Pair, to_original
from tether.formats.recognize import recognize
from tether.formats.sampling import FORMER_SPACING, SAMPLING, differing_sampling
from tether.formats.shape import EncoderShape, encoder_of_diffusers
from tether.formats.strays import unwrapped
from tether.formats.text import clip_pairs, open_clip_pairs
from tether.formats.unet import control_pairs, unet_pairs
from tether.formats.vae import vae_pairs
from tether.kinds import find_kind
from tether.weights import shipped, shipped_control, split_kind

__all__ = ["LAYOUTS", "Converted", "convert"]

Layout = Literal["diffusers", "original", "released"]
LAYOUTS: Mapping[str, Literal["diffusers", "original"]] = {
    "diffusers": "diffusers",
    "original": "original",
    "released": "original",
}
"""Accepted names of the layouts; "released" is the former name of "original"."""
NOISE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "trained_betas")
"""Settings of the noise schedule that are the same for a whole family, and not stored in the original layout."""
NETWORK_WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
CLIP, OPEN_CLIP = "quick_gelu", "gelu"
"""The two kinds of text encoders, by activation."""


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        words: what was read: "ControlNet for Stable Diffusion 1.x (768-wide text states)".
        target: what was written.
        tensors: how many.
        bytes: how many.
        notes: what was left out, or should be known.
    """

    words: str
    target: Path
    tensors: int
    bytes: int
    notes: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Layout,
    dtype: torch.dtype | None = None,
    force: bool = False,
    base: str | Path | None = None,
    kind: str | None = None,
    transfer_from: str | Path | None = None,
    transfer_to: str | Path | None = None,
    prediction_type: str | None = None,
) -> Converted:
    """Writes a base or a control in another layout, or in the same one.

    Args:
        source: anything that `load_base` or `ControlNet.load` opens.
        target: for "diffusers" the folder to write; for "original" the file, with the suffix `.safetensors`, or `.ckpt`
            or `.pth` for programs that read nothing else.
        to: the layout, a key of `LAYOUTS`.
        dtype: what the weights are cast to; None keeps their dtypes.
        force: replace an existing target.
        base: the base that a control's difference file is added to.
        kind: the kind of a control's condition images, if neither its notes nor its name have it.
        transfer_from, transfer_to: move a control from one base to another; see `tether.control.transfer`.
        prediction_type: what a base predicts, to override what its files say.

    Raises:
        TetherError: if the source cannot be opened, the target exists, cannot be written or contains one of the models
            that are read, or the layout cannot store the source.
    """
    target = Path(target)
    if to not in LAYOUTS:
        raise TetherError(f"{to!r} is not a supported layout: expected diffusers or original")
    to_folder = LAYOUTS[to] == "diffusers"
    _check_target(target, to_folder, force)
    if (transfer_from is None) != (transfer_to is None):
        raise TetherError("a transfer needs two bases: give both --transfer-from and --transfer-to")
    path, named = _find(source)
    _check_inputs_stay(target, [path, base, transfer_from, transfer_to])
    kind = kind or named
    if is_control_folder(path) or (path.is_file() and recognize(unwrapped(open_checkpoint(path))).what == "control"):
        control = _open_control(source, path, base, kind)
        if transfer_from is not None and transfer_to is not None:
            pair = [base_parts(ref)[0].unet.tensors for ref in (transfer_from, transfer_to)]
            control.tensors = transferred(control.tensors, *pair)
        return (_write_control_folder if to_folder else _write_control_file)(control, target, dtype, force)
    if transfer_from is not None:
        raise TetherError(f"{source} is a base model: only a control can be transferred")
    parts, _ = base_parts(source, prediction_type=prediction_type)
    for part in parts.networks().values():
        part.check()
    return (_write_base_folder if to_folder else _write_base_file)(parts, target, dtype, force)


def _check_target(target: Path, to_folder: bool, force: bool) -> None:
    if not to_folder and target.suffix not in (".safetensors", ".ckpt", ".pth"):
        raise TetherError(f"{target}: the original layout is a file; end its name in .safetensors (or .ckpt or .pth)")
    if to_folder and target.suffix in SUFFIXES:
        raise TetherError(f"{target}: the diffusers layout is a folder; give a name without {target.suffix}")
    check_may_replace(target, force=force)
    if target.exists() and target.is_dir() != to_folder:
        found, expected = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise TetherError(f"{target} is a {found}: refusing to replace it by a {expected}")


def _check_inputs_stay(target: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuses a target that would be replaced together with a model that is read.

    Raises:
        TetherError: naming the model.
    """
    targets = {Path(os.path.abspath(target)), target.resolve()}
    for each in inputs:
        path = None if each is None else local_path(each)
        if path is None:
            continue
        above = {*Path(os.path.abspath(path)).parents, *path.resolve().parents}
        if targets & above:
            raise TetherError(f"refusing to overwrite {target}: it contains {path}, which is read; give another name")


def _find(source: str | Path) -> tuple[Path, str | None]:
    """Where it is, and the kind of control that `source` names, if it does."""
    if str(source) == SHIPPED:
        return shipped("base"), None
    names = (str(source), find_kind(str(source)).name)
    if any(shipped_control(name) for name in names) or split_kind(source)[1] is not None:
        return find_control(source)
    path = find(source, "model")
    return path if is_base_folder(path) else trained(path), None  # a pipeline with a control in it is a base here


def _open_control(source: str | Path, path: Path, base: str | Path | None, kind: str | None) -> ControlPart:
    if family_of_folder(path) == UnionControlNet.family:
        return union_part(path, kind)
    unet = None if base is None else base_parts(base)[0].unet.tensors
    name = None if Path(source).exists() else str(source)  # folders above a path may have any name
    return control_of(path, base_unet=unet, kind=kind, name=name)


def _write_control_folder(control: ControlPart, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    with replacing(target, force=force, folder_of="control") as part:
        part.mkdir()
        size = write_safetensors(part / NETWORK_WEIGHTS, control.tensors, dtype, give_back=True)
        write_json(part / "config.json", control.settings)
        if found := notes(control.kind, control.sides):
            write_json(part / NOTES, found)
    return Converted(control.words, target, len(control.tensors), size, control.notes)


def _write_control_file(control: ControlPart, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    settings = control.settings
    if settings.get("hint", "released") != "released":
        raise TetherError(f"{control.what} has the hint encoder of the paper, which the original layout cannot store")
    shape = _shape(control.tensors, control.what)
    more = _differing(settings, default_settings() | shape.config(), len(shape.channels))
    for name in ("conditioning_channels", "conditioning_embedding_out_channels", "global_pool_conditions"):
        more.pop(name, None)  # the first two are in the shapes of the hint encoder, the third in metadata of its own
    for name, value in more.items():
        if name not in UNSHAPED:
            raise TetherError(f"{control.what} has {name}={value}, which the original layout cannot store")
        if target.suffix != ".safetensors":
            raise TetherError(
                f"{control.what} has {name}={value}, which {target.suffix} cannot store: use .safetensors"
            )
    metadata = {f"tether.{name}": str(value) for name, value in notes(control.kind, control.sides).items()}
    if settings["global_pool_conditions"]:
        metadata["tether.global_pool_conditions"] = "true"
    if more:
        metadata[SETTINGS] = json.dumps(more)
    tensors = to_original(control_pairs(shape, control.tensors), control.tensors)
    tensors = {f"control_model.{name}": tensor for name, tensor in tensors.items()}
    size = _write_file(target, tensors, dtype, metadata, force)
    return Converted(control.words, target, len(control.tensors), size, control.notes)


def _write_base_folder(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    size = 0
    with replacing(target, force=force, folder_of="base") as folder:
        for name, network in parts.networks().items():
            weights = TEXT_WEIGHTS if name.startswith("text_encoder") else NETWORK_WEIGHTS
            write_json(folder / name / "config.json", network.config)
            size += write_safetensors(folder / name / weights, network.tensors, dtype, give_back=True)
        write_tokenizer(folder / "tokenizer", parts.tokenizer)
        if parts.tokenizer_2 is not None:
            write_tokenizer(folder / "tokenizer_2", parts.tokenizer_2)
        schedule = {name: value for name, value in parts.scheduler.items() if name != FORMER_SPACING}
        write_json(folder / "scheduler" / "scheduler_config.json", schedule)
        write_json(folder / "model_index.json", parts.index)
        if parts.original_only:
            size += write_safetensors(folder / ORIGINAL_ONLY, parts.original_only, dtype, give_back=True)
    count = sum(len(network.tensors) for network in parts.networks().values())
    return Converted(parts.words, target, count, size, parts.notes)


def _write_base_file(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    shape = _shape(parts.unet.tensors, parts.unet.what)
    _check_implied(parts, shape)
    networks = {
        UNET: (unet_pairs(shape, parts.unet.tensors), parts.unet),
        VAE: (vae_pairs(len(parts.vae.config["block_out_channels"]), parts.vae.tensors), parts.vae),
    } | _text_networks(parts, shape)
    tensors: dict[str, Tensor] = dict(parts.original_only)
    for prefix, (pairs, network) in networks.items():
        tensors |= {prefix + name: tensor for name, tensor in to_original(pairs, network.tensors).items()}
    velocity = parts.scheduler.get("prediction_type") == "v_prediction"
    # Empty tensors by which other programs recognize these models as well.
    if velocity and shape.family != "sd2":
        tensors.setdefault("v_pred", torch.zeros(0))
    if parts.scheduler.get("rescale_betas_zero_snr"):
        tensors.setdefault("ztsnr", torch.zeros(0))
    notes = list(parts.notes)
    if velocity and target.suffix != ".safetensors":
        notes.append(
            f"it predicts velocity, which {target.suffix} cannot store: use .safetensors, or set the prediction type "
            "where you load it"
        )
    metadata = {"modelspec.prediction_type": "v" if velocity else "epsilon"}
    sampling = _sampling(parts, shape.family, velocity)
    if sampling and target.suffix == ".safetensors":
        metadata[SAMPLING] = json.dumps(sampling)
    elif sampling:
        shown = ", ".join(f"{name}={value}" for name, value in sampling.items())
        notes.append(f"it is sampled with {shown}, which {target.suffix} cannot store: use .safetensors")
    size = _write_file(target, tensors, dtype, metadata, force)
    return Converted(parts.words, target, len(tensors), size, notes)


def _sampling(parts: Parts, family: str, velocity: bool) -> dict[str, Any]:
    """How a base is sampled, where that is not what a reader of its file assumes."""
    usual = family_settings(family)
    if family == "sd2" and velocity:
        usual["unet"]["sample_size"] = 96
    differing = differing_sampling(parts.scheduler, parts.index, parts.unet.config, usual)
    if differing and family == "sd2":
        differing["sample_size"] = parts.unet.config.get("sample_size")  # the usual one depends on the prediction type
    return differing


def _check_implied(parts: Parts, shape: EncoderShape) -> None:
    """Checks that all settings of a base are those that a reader of the original layout assumes.

    Raises:
        TetherError: naming the setting.
    """
    implied, usual = shape.config(), family_settings(shape.family)
    for name, value in _differing(parts.unet.config, implied, len(shape.channels)).items():
        raise TetherError(_cannot_store(parts.unet.what, name, value, implied[name]))
    for name in NOISE:
        expected = usual["scheduler"].get(name)
        if parts.scheduler.get(name, expected) != expected:
            raise TetherError(_cannot_store("the noise schedule", name, parts.scheduler[name], expected))
    scale, expected = parts.vae.config.get("scaling_factor", 0.18215), usual["vae"]["scaling_factor"]
    if scale != expected:
        raise TetherError(_cannot_store(parts.vae.what, "scaling_factor", scale, expected))


def _cannot_store(what: str, name: str, value: Any, expected: Any) -> str:
    return f"{what} has {name}={value}, which the original layout cannot store (it implies {expected})"


def _text_networks(parts: Parts, shape: EncoderShape) -> dict[str, tuple[list[Pair], Part]]:
    """Prefix -> pairs and encoder, for one or two text encoders."""
    encoders = [each for each in (parts.text_encoder, parts.text_encoder_2) if each is not None]
    expected = {"sd1": [CLIP], "sd2": [OPEN_CLIP], "sdxl": [CLIP, OPEN_CLIP]}[shape.family]
    if len(encoders) != len(expected):
        raise TetherError(
            f"{parts.unet.what} needs {len(expected)} text encoders in the original layout, found {len(encoders)}"
        )
    for encoder, activation in zip(encoders, expected, strict=True):
        heads = max(1, encoder.config["hidden_size"] // 64)
        if encoder.config.get("hidden_act") != activation or encoder.config["num_attention_heads"] != heads:
            name = "CLIP" if activation == CLIP else "OpenCLIP"
            raise TetherError(f"{encoder.what}: the original layout of this base needs {name} as text encoder")
    first, *second = encoders
    if second:
        return {
            "conditioner.embedders.0.transformer.": (clip_pairs(first.tensors), first),
            "conditioner.embedders.1.model.": (_open_clip_pairs(second[0], projection=True), second[0]),
        }
    if shape.family == "sd2":
        return {"cond_stage_model.model.": (_open_clip_pairs(first, projection=False), first)}
    return {"cond_stage_model.transformer.": (clip_pairs(first.tensors), first)}


def _open_clip_pairs(encoder: Part, projection: bool) -> list[Pair]:
    return open_clip_pairs(encoder.config["num_hidden_layers"], projection)


def _shape(tensors: dict[str, Tensor], what: str) -> EncoderShape:
    try:
        shape = encoder_of_diffusers(tensors)
        shape.config()  # raises for architectures without settings
    except TetherError as error:
        raise TetherError(f"{what} cannot be stored in the original layout: {error}") from None
    return shape


def _differing(config: Mapping[str, Any], implied: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """The settings that differ from the implied ones, which a reader assumes if a file stores no settings."""

    def spread(value: Any) -> Any:  # 8 and [8, 8, 8, 8] are the same
        return list(value) if isinstance(value, (list, tuple)) else [value] * levels

    given = {name: config[name] for name in implied if config.get(name) is not None}
    return {name: value for name, value in given.items() if spread(value) != spread(implied[name])}


def _write_file(
    target: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None, metadata: dict[str, str], force: bool
) -> int:
    """Writes a file in the original layout, and returns its size in bytes."""
    with replacing(target, force=force) as part:
        if target.suffix == ".safetensors":
            return write_safetensors(part, tensors, dtype, metadata, give_back=True)
        return write_torch(part, tensors, dtype)
