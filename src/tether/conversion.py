"""From one layout to the other and back, for bases and controls: `tether convert IN OUT --to diffusers|released`.

Nothing is computed but, where it is asked for, another type of number or a transfer: the tensors that come out are
those that went in, bit for bit. The target is written whole or not at all, and never over something else unasked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tether.base.folder import RELEASED_ONLY
from tether.base.load import SHIPPED, base_parts
from tether.base.parts import Part, Parts
from tether.control.architecture import default_settings
from tether.control.files import NOTES, SETTINGS, UNSHAPED, ControlPart, control_of, is_control_folder
from tether.control.transfer import transferred
from tether.errors import TetherError
from tether.files.checkpoints import SUFFIXES, open_checkpoint
from tether.files.hub import find
from tether.files.writing import replacing, write_json, write_safetensors, write_tokenizer, write_torch
from tether.formats.families import family_settings
from tether.formats.names import to_released
from tether.formats.recognize import recognise
from tether.formats.shape import EncoderShape, encoder_of_diffusers
from tether.formats.text import clip_pairs, open_clip_pairs
from tether.formats.unet import control_pairs, unet_pairs
from tether.formats.vae import vae_pairs
from tether.weights import shipped, shipped_controls

__all__ = ["Converted", "convert"]

Layout = Literal["diffusers", "released"]
NOISE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "trained_betas")
"""The settings of a noise schedule that are the same for all of a family, and stand in no released file."""
NETWORK_WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

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
    """Writes a base or a control in the other layout, or in the same.

    Args:
        source: whatever `load_base` or `ControlNet.load` opens.
        target: the folder to be, for "diffusers"; the file to be, for "released": `.safetensors`, or `.ckpt` or `.pth`
            for programs that read nothing else.
        to: the layout.
        dtype: what the weights are cast to; each stays what it is when left out.
        force: replace what is at `target`.
        base: the base that a control's difference file is a difference to.
        kind: what a control's conditions are, where neither notes nor name say so.
        transfer_from, transfer_to: move a control from one base to another; see `tether.control.transfer`.
        prediction_type: what a base predicts, where it is wrong or silent about that.

    Raises:
        TetherError: where the source does not open, the target exists or cannot be written, or the layout cannot say
            what the source is.
    """
    target = Path(target)
    _check_target(target, to, force)
    if (transfer_from is None) != (transfer_to is None):
        raise TetherError("a transfer needs two bases: give both --transfer-from and --transfer-to")
    own = str(source) in shipped_controls()
    path = shipped(f"control-{source}") if own else shipped("base") if source == SHIPPED else find(source, "model")
    if is_control_folder(path) or (path.is_file() and recognise(open_checkpoint(path)).what == "control"):
        unet = None if base is None else base_parts(base)[0].unet.tensors
        name = None if Path(source).exists() else str(source)  # a path's folders may be called after anything
        control = control_of(path, base_unet=unet, kind=kind or (str(source) if own else None), name=name)
        if transfer_from is not None and transfer_to is not None:
            pair = [base_parts(ref)[0].unet.tensors for ref in (transfer_from, transfer_to)]
            control.tensors = transferred(control.tensors, *pair)
        return _write_control(control, target, to, dtype, force)
    if transfer_from is not None:
        raise TetherError(f"{source} is a base: only a control can be transferred")
    parts, _ = base_parts(source, prediction_type=prediction_type)
    for part in parts.networks().values():
        part.check()
    return (_write_base_folder if to == "diffusers" else _write_base_file)(parts, target, dtype, force)


def _check_target(target: Path, to: str, force: bool) -> None:
    if to not in ("diffusers", "released"):
        raise TetherError(f"layout {to!r} is unknown: give diffusers or released")
    if to == "released" and target.suffix not in (".safetensors", ".ckpt", ".pth"):
        raise TetherError(f"{target} should be a file: give it the ending .safetensors (or .ckpt or .pth)")
    if to == "diffusers" and target.suffix in SUFFIXES:
        raise TetherError(f"{target} should be a folder: the diffusers layout is not one file")
    if target.exists() and not force:
        raise TetherError(f"{target} exists: use --force to replace it")
    if target.exists() and target.is_dir() != (to == "diffusers"):
        raise TetherError(
            f"{target} is {'a folder' if target.is_dir() else 'a file'}: it is not replaced by another kind"
        )


def _write_control(control: ControlPart, target: Path, to: Layout, dtype: torch.dtype | None, force: bool) -> Converted:
    settings = control.settings
    with replacing(target, force=force) as part:
        if to == "diffusers":
            part.mkdir()
            size = write_safetensors(part / NETWORK_WEIGHTS, control.tensors, dtype, give_back=True)
            write_json(part / "config.json", settings)
            if control.kind is not None:
                write_json(part / NOTES, {"kind": control.kind})
        else:
            if settings.get("hint", "released") != "released":
                raise TetherError(
                    f"{control.what} encodes its condition as the paper does: no released layout has that"
                )
            shape = _shape(control.tensors, control.what)
            unsaid = _unsaid(settings, default_settings() | shape.config(), len(shape.channels))
            for name in ("conditioning_channels", "conditioning_embedding_out_channels", "global_pool_conditions"):
                unsaid.pop(name, None)  # the hint encoder's tensors tell it, or metadata of its own
            for name, value in unsaid.items():
                if name not in UNSHAPED:
                    raise TetherError(f"{control.what} has {name}={value}, which the released layout cannot say")
                if target.suffix != ".safetensors":
                    raise TetherError(
                        f"{control.what} has {name}={value}, which a {target.suffix} cannot say: write .safetensors"
                    )
            tensors = to_released(control_pairs(shape, control.tensors), control.tensors)
            metadata = {"tether.kind": control.kind} if control.kind is not None else {}
            if settings["global_pool_conditions"]:
                metadata["tether.global_pool_conditions"] = "true"
            if unsaid:
                metadata[SETTINGS] = json.dumps(unsaid)
            tensors = {f"control_model.{name}": tensor for name, tensor in tensors.items()}
            size = _write_file(part, tensors, dtype, metadata)
    return Converted(control.words, target, len(control.tensors), size, control.notes)


def _write_base_folder(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    size = 0
    with replacing(target, force=force) as folder:
        for name, network in parts.networks().items():
            weights = TEXT_WEIGHTS if name.startswith("text_encoder") else NETWORK_WEIGHTS
            write_json(folder / name / "config.json", network.config)
            size += write_safetensors(folder / name / weights, network.tensors, dtype, give_back=True)
        write_tokenizer(folder / "tokenizer", parts.tokenizer)
        if parts.tokenizer_2 is not None:
            write_tokenizer(folder / "tokenizer_2", parts.tokenizer_2)
        write_json(folder / "scheduler" / "scheduler_config.json", parts.scheduler)
        write_json(folder / "model_index.json", parts.index)
        if parts.released_only:
            size += write_safetensors(folder / RELEASED_ONLY, parts.released_only, dtype, give_back=True)
    count = sum(len(network.tensors) for network in parts.networks().values())
    return Converted(parts.words, target, count, size, parts.notes)


def _write_base_file(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    shape = _shape(parts.unet.tensors, parts.unet.what)
    told = shape.config()
    for name, value in _unsaid(parts.unet.config, told, len(shape.channels)).items():
        raise TetherError(
            f"{parts.unet.what} has {name}={value}, which the released layout cannot say (it means {told[name]})"
        )
    below = {
        "model.diffusion_model.": (unet_pairs(shape, parts.unet.tensors), parts.unet),
        "first_stage_model.": (
            vae_pairs(len(parts.vae.config["block_out_channels"]), parts.vae.tensors),
            parts.vae,
        ),
    } | _texts(parts, shape.linear)
    tensors: dict[str, Tensor] = dict(parts.released_only)
    for prefix, (pairs, network) in below.items():
        tensors |= {prefix + name: tensor for name, tensor in to_released(pairs, network.tensors).items()}
    velocity = parts.scheduler.get("prediction_type") == "v_prediction"
    family = "sdxl" if parts.text_encoder_2 is not None else "sd2" if shape.linear else "sd1"
    usual = family_settings(family)["scheduler"]
    for name in NOISE:
        said, meant = parts.scheduler.get(name, usual.get(name)), usual.get(name)
        if said != meant:
            raise TetherError(
                f"the noise schedule has {name}={said}, which the released layout cannot say (it means {meant})"
            )
    # The marks that others look for, too: an empty tensor's name says it.
    if velocity and family != "sd2":
        tensors.setdefault("v_pred", torch.zeros(0))
    if parts.scheduler.get("rescale_betas_zero_snr"):
        tensors.setdefault("ztsnr", torch.zeros(0))
    notes = list(parts.notes)
    if velocity and target.suffix != ".safetensors":
        notes.append("it predicts velocity (v), which a .ckpt cannot say: write .safetensors, or tell its reader")
    metadata = {"modelspec.prediction_type": "v" if velocity else "epsilon"}
    with replacing(target, force=force) as part:
        size = _write_file(part, tensors, dtype, metadata)
    return Converted(parts.words, target, len(tensors), size, notes)


def _texts(parts: Parts, linear: bool) -> dict[str, tuple[Any, Part]]:
    """Prefix -> pairs and encoder, for one or two text encoders."""
    first, second = parts.text_encoder, parts.text_encoder_2
    family = "sdxl" if second is not None else "sd2" if linear else "sd1"
    scale, usual = parts.vae.config.get("scaling_factor", 0.18215), family_settings(family)["vae"]["scaling_factor"]
    if scale != usual:
        raise TetherError(
            f"{parts.vae.what} has scaling_factor={scale}, which the released layout cannot say (it means {usual})"
        )
    expected = {"quick_gelu": "CLIP", "gelu": "OpenCLIP"}
    wanted = {"text encoder": (first, "gelu" if linear and second is None else "quick_gelu")}
    if second is not None:
        wanted["second text encoder"] = (second, "gelu")
    for words, (encoder, activation) in wanted.items():
        heads = max(1, encoder.config["hidden_size"] // 64)
        if encoder.config.get("hidden_act") != activation or encoder.config["num_attention_heads"] != heads:
            raise TetherError(
                f"{encoder.what}: the released layout needs {expected[activation]} as {words} of this base"
            )
    if second is not None:
        return {
            "conditioner.embedders.0.transformer.": (clip_pairs(first.tensors), first),
            "conditioner.embedders.1.model.": (open_clip_pairs(second.config["num_hidden_layers"], True), second),
        }
    if linear:
        return {"cond_stage_model.model.": (open_clip_pairs(first.config["num_hidden_layers"], False), first)}
    return {"cond_stage_model.transformer.": (clip_pairs(first.tensors), first)}


def _shape(tensors: dict[str, Tensor], what: str) -> EncoderShape:
    """The encoder's shape."""
    try:
        shape = encoder_of_diffusers(tensors)
        shape.config()  # it may be of no shape that settings have
    except TetherError as error:
        raise TetherError(f"{what} has no released layout: {error}") from None
    return shape


def _unsaid(config: Mapping[str, Any], told: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """The settings that differ from those `told`, which a reader takes who is told nothing else."""

    def spread(value: Any) -> Any:  # 8 and [8, 8, 8, 8] say the same
        return list(value) if isinstance(value, (list, tuple)) else [value] * levels

    said = {name: config[name] for name in told if config.get(name) is not None}
    return {name: value for name, value in said.items() if spread(value) != spread(told[name])}


def _write_file(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None, metadata: dict[str, str]) -> int:
    if path.suffix == ".safetensors":
        return write_safetensors(path, tensors, dtype, metadata, give_back=True)
    return write_torch(path, tensors, dtype)
