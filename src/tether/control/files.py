"""A control as files have it: its settings and mapped tensors, under diffusers' names.

    a diffusers folder          config.json, diffusion_pytorch_model.safetensors, and Tether's notes
    whole, released with 1.0    control_model.* beside the base (model.diffusion_model.*, ...), which is left alone
    pruned, and all of 1.1      control_model.*
    prefix-less                 input_blocks.*, zero_convs.*, ...
    difference                  the encoder's tensors less those of the base, which has to be added back
    diffusers in one file       down_blocks.*, controlnet_down_blocks.*, ...

The released layout says nothing of what no tensor's shape tells, as the number of heads. Controls whose settings differ
there from Stable Diffusion's, as those for the shipped base do, carry them in their file's metadata (`SETTINGS`).

What a control's conditions are is in no tensor: it is told from the notes, else guessed from the name. Only `shuffle`
is made differently for it (its residuals are averaged over space).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tether import control
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.folder import is_base_folder, read_json, weights_of_folder
from tether.files.materialize import check_fits_network
from tether.formats.families import BASE_PREFIXES, UNUSED
from tether.formats.measures import check_measures
from tether.formats.names import to_diffusers
from tether.formats.recognize import FAMILY_WORDS, Recognised, recognise
from tether.formats.unet import control_pairs
from tether.kinds import find_kind, guess_kind

__all__ = ["NOTES", "SETTINGS", "UNSHAPED", "ControlPart", "control_of", "is_control_folder"]

NOTES = "tether.json"
SETTINGS = "tether.config"
"""Under which name a file's metadata has the settings that its shapes do not tell, as JSON."""
UNSHAPED = {
    "act_fn",
    "addition_embed_type_num_heads",
    "attention_head_dim",
    "controlnet_conditioning_channel_order",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
    "num_attention_heads",
    "resnet_time_scale_shift",
    "upcast_attention",
}
"""The settings that may stand there."""
DIFFERENCE = "difference"


@dataclass
class ControlPart:
    """A control.

    Attributes:
        config: what its `config.json` says.
        tensors: mapped, under diffusers' names.
        what: how messages call it.
        words: what it is, for people.
        kind: what its conditions are, or None.
        notes: what was left behind, for people.
        cls: which class its network is made of.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    what: str
    words: str
    kind: str | None = None
    notes: list[str] = field(default_factory=list)
    cls: type[control.ControlNet] = control.ControlNet

    @cached_property
    def network(self) -> control.ControlNet:
        """The network without numbers (on "meta").

        Raises:
            TetherError: where the settings describe none.
        """
        check_measures(self.config, self.what)
        try:
            with torch.device("meta"):
                return self.cls.from_config(self.config)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise TetherError(f"{self.what} has settings that describe no ControlNet: {line[:160]}") from None

    def check(self) -> None:
        """Refuses tensors that are not exactly those the settings describe.

        Raises:
            TetherError: naming what is missing, left over or of another shape.
        """
        check_fits_network(self.network.state_dict(), self.tensors, self.what)


def is_control_folder(folder: Path) -> bool:
    """Whether this is the folder of a control."""
    return not is_base_folder(folder) and (folder / "config.json").is_file()


def control_of(
    path: Path,
    *,
    base_unet: Mapping[str, Tensor] | None = None,
    kind: str | None = None,
    name: str | None = None,
    cls: type[control.ControlNet] = control.ControlNet,
) -> ControlPart:
    """Opens a control's folder or file.

    Args:
        path: the folder or file.
        base_unet: the state dict of the denoiser that a "difference" file is a difference to.
        kind: what its conditions are; from its notes or its name when left out.
        name: what it is called, where the path does not say (a name on the hub).
        cls: which class its network is made of.

    Raises:
        TetherError: where it is no control, or damaged, or a difference and there is no base.
    """
    part = _of_folder(path) if path.is_dir() else _of_file(path, base_unet)
    # The file's own name first: folders above it may be called after anything.
    part.kind = kind or part.kind or guess_kind(path.stem if path.is_file() else path.name) or guess_kind(name or "")
    part.cls = cls
    if path.is_file() and find_kind(part.kind).pools_globally:
        part.config["global_pool_conditions"] = True
    vars(part).pop("network", None)  # made before all of this was known
    part.check()
    return part


def _of_folder(folder: Path) -> ControlPart:
    if is_base_folder(folder):
        raise TetherError(f"{folder} is the folder of a base, and a ControlNet is wanted here")
    config = read_json(folder / "config.json")
    kind = config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise TetherError(f"{folder} is a {kind}: expected a ControlNetModel")
    notes = read_json(folder / NOTES) if (folder / NOTES).is_file() else {}
    width = config.get("cross_attention_dim")
    if config.get("addition_embed_type") == "text_time":
        family = "sdxl"
    else:
        family = {768: "sd1", 1024: "sd2"}.get(width if isinstance(width, int) else 0, "custom")
    return ControlPart(
        config=config,
        tensors=weights_of_folder(folder).tensors,
        what=str(folder),
        words=f"ControlNet for {FAMILY_WORDS[family]} ({width}-wide text states)",
        kind=notes.get("kind"),
    )


def _of_file(path: Path, base_unet: Mapping[str, Tensor] | None) -> ControlPart:
    checkpoint = open_checkpoint(path)
    recognised = recognise(checkpoint, "control")
    words = recognised.words
    config = _config(checkpoint, recognised)
    part = ControlPart(config, {}, str(path), words, kind=checkpoint.metadata.get("tether.kind"))
    if recognised.layout == "diffusers":
        part.tensors = dict(checkpoint.tensors)
        return part
    rest = dict(checkpoint.tensors)
    own = {name.removeprefix(recognised.prefix): t for name, t in rest.items() if name.startswith(recognised.prefix)}
    marked = own.pop(DIFFERENCE, None) is not None or rest.pop(DIFFERENCE, None) is not None
    part.tensors, used = to_diffusers(control_pairs(recognised.shape, part.network.state_dict()), own)
    strange = [name for name in own if name not in used]
    if recognised.prefix:
        beside = (name for name in rest if not name.startswith(recognised.prefix))
        strange += [n for n in beside if not n.startswith(BASE_PREFIXES) and not UNUSED.fullmatch(n)]
        if any(name.startswith(BASE_PREFIXES) for name in rest):
            part.notes.append("left out: the base that was released with the control")
    if strange:
        raise TetherError(
            f"{path} holds {len(strange)} tensors that do not belong in a {words}: {', '.join(strange[:3])}"
        )
    if marked:
        part.check()
        part.tensors = _added_back(part, base_unet)
        part.notes.append("the base was added back to the difference")
    return part


def _config(checkpoint: Checkpoint, recognised: Recognised) -> dict[str, Any]:
    """The settings of a file's control, those of its metadata included."""
    pools = checkpoint.metadata.get("tether.global_pool_conditions") == "true"
    told = _settings_of_shape(checkpoint.tensors, recognised) | {"global_pool_conditions": pools}
    try:
        more = json.loads(checkpoint.metadata.get(SETTINGS, "{}"))
    except (ValueError, RecursionError):
        more = None
    if not isinstance(more, dict) or not more.keys() <= UNSHAPED:
        raise TetherError(f"{checkpoint.path} is damaged: its metadata {SETTINGS} holds no settings")
    return told | more


def _settings_of_shape(tensors: Mapping[str, Tensor], recognised: Recognised) -> dict[str, Any]:
    """The settings of a ControlNet as far as its tensors tell them."""
    released = recognised.layout == "released"
    hint = f"{recognised.prefix}input_hint_block." if released else "controlnet_cond_embedding."
    # Every second convolution of the hint encoder widens: its inputs are the widths, and those of the last its end.
    names = (
        [f"{hint}{2 * k}.weight" for k in range(1, 16)] if released else [f"{hint}blocks.{k}.weight" for k in range(15)]
    )
    inner = [tensors[name] for name in names if name in tensors]
    if not released:
        inner.append(tensors[f"{hint}conv_out.weight"])
    first = tensors[f"{hint}0.weight" if released else f"{hint}conv_in.weight"]
    return recognised.shape.config() | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": [tensor.shape[1] for tensor in inner[::2]],
    }


def _added_back(part: ControlPart, base_unet: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """difference + base, in float32, for every tensor that the base has too."""
    if base_unet is None:
        raise TetherError(
            f"{part.what} holds only a control's difference to its base: give that base as well (--base, or base=)"
        )
    whole = {}
    for name, tensor in part.tensors.items():
        twin = base_unet.get(name)
        if twin is not None and twin.shape != tensor.shape:
            raise TetherError(f"{part.what} is a difference to another base: {name} is {tuple(twin.shape)} in this one")
        whole[name] = tensor if twin is None else (tensor.float() + twin.detach().cpu().float()).to(tensor.dtype)
    return whole
