"""Converts bases and controls between layouts: `tether convert IN OUT --to diffusers|original`.

    diffusers   a folder with a config and weights for each network
    original    one file, with the names of Stable Diffusion's own code (LDM)

The tensors that are written are those that were read, bit for bit, unless another dtype or a transfer is asked for. The
target is written completely or not at all, and only replaced with `force`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from tether.base.load import SHIPPED, base_parts
from tether.base.original import original_of
from tether.base.parts import Parts
from tether.control.files import (
    POOLS,
    SETTINGS,
    UNSHAPED,
    ControlPart,
    control_of,
    is_control_folder,
    is_difference,
)
from tether.control.load import find_control, find_with_settings
from tether.control.store import family_of_folder, notes, trained
from tether.control.transfer import transferred
from tether.control.union import UnionControlNet, union_part
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import NOTES, ORIGINAL_ONLY, is_base_folder
from tether.files.paths import SUFFIXES, local_path
from tether.files.writing import (
    check_may_replace,
    replacing,
    write_json,
    write_safetensors,
    write_tokenizer,
    write_torch,
)
from tether.formats.names import to_original
from tether.formats.recognize import recognize
from tether.formats.sampling import FORMER_SPACING
from tether.formats.shape import default_settings, differing_settings, shape_to_store
from tether.formats.strays import unwrapped
from tether.formats.unet import control_pairs
from tether.kinds import find_kind, guess_kind
from tether.weights import shipped, shipped_control, split_kind

__all__ = ["LAYOUTS", "Converted", "convert"]

Layout = Literal["diffusers", "original", "released"]
LAYOUTS: Mapping[str, Literal["diffusers", "original"]] = {
    "diffusers": "diffusers",
    "original": "original",
    "released": "original",
}
"""Accepted names of the layouts; "released" is the former name of "original"."""
NETWORK_WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"


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
        base: the base that a control's difference file is added to; refused for anything else.
        kind: the kind of a control's condition images, if neither its notes nor its name have it; refused for a base.
        transfer_from, transfer_to: move a control from one base to another; see `tether.control.transfer`.
        prediction_type: what a base predicts, to override what its files say; refused for a control.

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
    _check_inputs_stay(target, path, [base, transfer_from, transfer_to])
    if is_control_folder(path) or (path.is_file() and recognize(unwrapped(open_checkpoint(path))).what == "control"):
        if prediction_type is not None:
            raise TetherError(f"{source} is a control: only a base has a prediction type")
        control = _open_control(source, path, base, kind or named)
        if transfer_from is not None and transfer_to is not None:
            pair = [base_parts(ref)[0].unet.tensors for ref in (transfer_from, transfer_to)]
            control.tensors = transferred(control.tensors, *pair)
        return (_write_control_folder if to_folder else _write_control_file)(control, target, dtype, force)
    for given, what in ((transfer_from, "can be transferred"), (kind, "has a kind"), (base, "is added to a base")):
        if given is not None:
            raise TetherError(f"{source} is a base model: only a control {what}")
    parts, _ = base_parts(source, prediction_type=prediction_type)
    for part in parts.networks().values():
        part.check()
    return (_write_base_folder if to_folder else _write_base_file)(parts, target, dtype, force)


def _check_target(target: Path, to_folder: bool, force: bool) -> None:
    if not to_folder and target.suffix not in (".safetensors", ".ckpt", ".pth"):
        raise TetherError(f"{target}: the original layout is a file; end its name in .safetensors (or .ckpt or .pth)")
    if to_folder and target.suffix in SUFFIXES:
        raise TetherError(f"{target}: the diffusers layout is a folder; give a name without {target.suffix}")
    check_may_replace(target, force=force, folder_of="model" if to_folder else None)
    if to_folder and target.is_file():
        raise TetherError(f"{target} is a file: refusing to replace it by a folder")


def _check_inputs_stay(target: Path, source: Path, others: Iterable[str | Path | None]) -> None:
    """Refuses a target that would change a model that is read; only the source may be replaced by itself.

    Raises:
        TetherError: naming the model.
    """
    place = target.resolve()
    for path in [source, *(local_path(each) for each in others if each is not None)]:
        if path is None:
            continue
        above = {*path.resolve().parents, *(folder.resolve() for folder in path.absolute().parents)}
        if place in above:
            reason = f"it contains {path}, which is read"
        elif path.resolve() in place.parents:
            reason = f"it lies in {path}, which is read"
        elif path.resolve() == place and path is not source:
            reason = "it is read"
        else:
            continue
        raise TetherError(f"refusing to write {target}: {reason}; give another name")


def _find(source: str | Path) -> tuple[Path, str | None]:
    """Where it is, and the kind of control that `source` names, if it does."""
    if str(source) == SHIPPED:
        return shipped("base"), None
    names = (str(source), find_kind(str(source)).name)
    if any(shipped_control(name) for name in names) or split_kind(source)[1] is not None:
        return find_control(source)
    path = find_with_settings(source, "model")
    return path if is_base_folder(path) else trained(path), None  # a pipeline with a control in it is a base here


def _open_control(source: str | Path, path: Path, base: str | Path | None, kind: str | None) -> ControlPart:
    if base is not None and not is_difference(path):
        raise TetherError(f"{source} is a whole control: only a difference file is added to a base (leave out --base)")
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
    shape = shape_to_store(control.tensors, control.what)
    more = differing_settings(settings, default_settings(ControlNetModel) | shape.config(), len(shape.channels))
    for name in ("conditioning_channels", "conditioning_embedding_out_channels", "global_pool_conditions"):
        more.pop(name, None)  # the first two are in the shapes of the hint encoder, the third in metadata of its own
    if not more.get("upcast_attention") or target.suffix != ".safetensors":
        more.pop("upcast_attention", None)  # None is False; and a reader need not know, as of a base
    for name, value in more.items():
        if name not in UNSHAPED:
            raise TetherError(f"{control.what} has {name}={value}, which the original layout cannot store")
        if target.suffix != ".safetensors":
            raise TetherError(
                f"{control.what} has {name}={value}, which {target.suffix} cannot store: use .safetensors"
            )
    metadata = {f"tether.{name}": str(value) for name, value in notes(control.kind, control.sides).items()}
    guessed = guess_kind(target.stem)
    implied = {find_kind(kind).pools_globally for kind in (control.kind, guessed) if kind is not None}
    if settings["global_pool_conditions"] or True in implied:
        metadata[POOLS] = "true" if settings["global_pool_conditions"] else "false"
    lost = [] if target.suffix == ".safetensors" else _lost(control, target)
    if more:
        metadata[SETTINGS] = json.dumps(more)
    tensors = to_original(control_pairs(shape, control.tensors), control.tensors, control.what)
    tensors = {f"control_model.{name}": tensor for name, tensor in tensors.items()}
    size = _write_file(target, tensors, dtype, metadata, force)
    return Converted(control.words, target, len(control.tensors), size, [*control.notes, *lost])


def _lost(control: ControlPart, target: Path) -> list[str]:
    """Notes about what a file without metadata does not store of a control.

    Raises:
        TetherError: if it would be another control without it.
    """
    guessed, pools = guess_kind(target.stem), control.settings["global_pool_conditions"]
    if pools != find_kind(guessed).pools_globally:
        if pools:
            lacks = f"has global_pool_conditions, which {target.suffix} cannot store"
            raise TetherError(f"{control.what} {lacks}: use .safetensors, or a name with shuffle in it")
        opens = f"has no global_pool_conditions, but a {target.suffix} named {target.name} opens with them"
        raise TetherError(f"{control.what} {opens}: use .safetensors, or another name")
    said = notes(None if guessed == control.kind else control.kind, control.sides)
    shown = " and ".join(f"{name}={value}" for name, value in said.items())
    return [f"it has {shown}, which {target.suffix} cannot store: use .safetensors"] if said else []


def _write_base_folder(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    size = 0
    index, left_out = _index(parts)
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
        write_json(folder / "model_index.json", index)
        if parts.original_only:
            size += write_safetensors(folder / ORIGINAL_ONLY, parts.original_only, dtype, give_back=True)
    count = sum(len(network.tensors) for network in parts.networks().values())
    return Converted(parts.words, target, count, size, [*parts.notes, *left_out])


def _index(parts: Parts) -> tuple[dict[str, Any], list[str]]:
    """The model_index.json of a base that is written, without the parts that are not; and a note about those."""
    written = {*parts.networks(), "tokenizer", "scheduler"} | ({"tokenizer_2"} if parts.tokenizer_2 else set())
    named = {name for name, value in parts.index.items() if isinstance(value, list) and any(value)}
    missing = sorted(named - written)
    index = parts.index | {name: [None, None] for name in missing}
    if "safety_checker" in missing:
        index["requires_safety_checker"] = False
    return index, [f"left out: {', '.join(missing)}"] if missing else []


def _write_base_file(parts: Parts, target: Path, dtype: torch.dtype | None, force: bool) -> Converted:
    original = original_of(parts, target.suffix)
    size = _write_file(target, original.tensors, dtype, original.metadata, force)
    _, left_out = _index(parts)
    return Converted(parts.words, target, len(original.tensors), size, [*parts.notes, *left_out, *original.notes])


def _write_file(
    target: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None, metadata: dict[str, str], force: bool
) -> int:
    """Writes a file in the original layout, and returns its size in bytes."""
    with replacing(target, force=force) as part:
        if target.suffix == ".safetensors":
            return write_safetensors(part, tensors, dtype, metadata, give_back=True)
        return write_torch(part, tensors, dtype)
