"""A ControlNet in files: its settings and mapped tensors, under diffusers' names.

    a diffusers folder          config.json, diffusion_pytorch_model.safetensors, and tether.json
    whole, as in 1.0            control_model.* beside the base (model.diffusion_model.*, ...), which is not read
    pruned, as in 1.1           control_model.*
    without prefix              input_blocks.*, zero_convs.*, ...
    difference                  the encoder's tensors minus those of the base, which has to be added back
    diffusers in one file       down_blocks.*, controlnet_down_blocks.*, ...; or a folder's weights alone

Files in the original layout store no settings: what the shapes of tensors do not determine, such as the number of
attention heads, is Stable Diffusion's. Controls that differ there, such as those for the shipped base, have these
settings in their file's metadata (`SETTINGS`).

The config.json and tether.json beside a file in diffusers' layout are its own if its name is that of a folder's
weights, or if no other weights are there. What its metadata say comes first.

No tensor stores the kind of a control's condition images: it is read from tether.json or the metadata, or guessed from
the name. Only "shuffle" changes the network: its signal is averaged over space.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tether.control.architecture import assemble, build, complete
from tether.control.injection import Sides, checked_sides
from tether.control.store import read_folder, read_settings
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.folder import FAMILY, STEMS, are_settings_of, is_base_folder, read_json
from tether.files.materialize import check_fits_network, without_values
from tether.formats.families import BASE_PREFIXES, UNUSED, describe, family_of_config
from tether.formats.measures import check_measures
from tether.formats.names import to_diffusers
from tether.formats.recognize import Recognized, recognize
from tether.formats.strays import check_marks, left_out_words, split_strays, unwrapped
from tether.formats.unet import control_pairs
from tether.kinds import find_kind, guess_kind

__all__ = ["POOLS", "SETTINGS", "UNSHAPED", "ControlPart", "control_of", "is_control_folder", "is_difference"]

logger = logging.getLogger(__name__)

SETTINGS = "tether.config"
"""Key of a file's metadata: the settings that the shapes of its tensors do not determine, as JSON."""
POOLS = "tether.global_pool_conditions"
"""Key of a file's metadata, "true" or "false"; without it, the kind says whether the signal is averaged over space."""
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
"""The settings that `SETTINGS` may contain."""
_MARK = re.compile(r"(control_model\.)?difference")
"""The tensor that marks a difference file."""
STRENGTHS = re.compile(r"(^|\.)(control_)?scales?$")
"""Names of learned strengths, which would change what a control does."""


@dataclass
class ControlPart:
    """A ControlNet in files.

    Attributes:
        config: the content of its `config.json`, or the settings that its tensors determine.
        tensors: mapped, under diffusers' names.
        what: its name in messages.
        words: a description: "ControlNet for Stable Diffusion 1.x (768-wide text states)".
        kind: the kind of its condition images, or None.
        sides: the recommended `Injection.sides`, or None.
        notes: what was left out, for the user.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    what: str
    words: str
    kind: str | None = None
    sides: Sides | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def modules(self) -> dict[str, nn.Module | None]:
        """The network's modules by name, on "meta": without values.

        Raises:
            TetherError: when the settings do not describe a ControlNet.
        """
        return self._built[0]

    @property
    def settings(self) -> dict[str, Any]:
        """`config` with every setting spelled out; otherwise as `modules`."""
        return self._built[1]

    @property
    def expected(self) -> dict[str, Tensor]:
        """The tensors that the settings describe, on "meta"; otherwise as `modules`."""
        return nn.ModuleDict({name: part for name, part in self.modules.items() if part is not None}).state_dict()

    @cached_property
    def _built(self) -> tuple[dict[str, nn.Module | None], dict[str, Any]]:
        check_measures(self.config, self.what)
        try:
            with without_values():
                model = build(self.config)
                settings = complete(model, self.config)
                return assemble(model, settings), settings
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise TetherError(f"{self.what} has settings that do not describe a ControlNet: {line[:160]}") from None

    def check(self) -> None:
        """Checks that the tensors are exactly those that the settings describe.

        Raises:
            TetherError: naming what is missing, left over or of another shape.
        """
        check_fits_network(self.expected, self.tensors, self.what)


def is_control_folder(folder: Path) -> bool:
    """Whether this is the folder of a control."""
    return not is_base_folder(folder) and (folder / "config.json").is_file()


def is_difference(path: Path) -> bool:
    """Whether this file holds a control's difference to its base, which `control_of` has to be given.

    Raises:
        TetherError: when it is damaged.
    """
    return path.is_file() and any(_MARK.fullmatch(name) for name in unwrapped(open_checkpoint(path)).tensors)


def control_of(
    path: Path,
    *,
    base_unet: Mapping[str, Tensor] | None = None,
    kind: str | None = None,
    name: str | None = None,
) -> ControlPart:
    """Opens a ControlNet's folder or file.

    Args:
        path: the folder or file.
        base_unet: the state dict of the denoiser, which is added to a "difference" file.
        kind: the kind of its condition images; by default as stored, or guessed from its name.
        name: what the user called it, when that says more than the path (a name on the Hub).

    Raises:
        TetherError: when it is not a ControlNet, is damaged, or is a difference and there is no base.
    """
    # The file's own name first: folders above it may be called after anything.
    guessed = guess_kind(path.stem if path.is_file() else path.name) or guess_kind(name or "")
    part = _of_folder(path, kind, guessed) if path.is_dir() else _of_file(path, kind, guessed, base_unet)
    part.check()
    return part


def _of_folder(folder: Path, kind: str | None, guessed: str | None) -> ControlPart:
    if is_base_folder(folder):
        within = sorted(path for path in folder.glob("controlnet*") if path.is_dir())
        meant = f", with {' and '.join(map(str, within))} in it: give one of those" if within else ""
        raise TetherError(f"{folder}: expected a ControlNet, found a base model{meant}")
    stored = read_folder(folder)
    if FAMILY in stored.config:
        raise TetherError(f"{folder}: expected a ControlNet, found a control of family {stored.config[FAMILY]!r}")
    found = stored.config.get("_class_name", "ControlNetModel")
    if found != "ControlNetModel":
        raise TetherError(f"{folder}: expected a ControlNetModel, found a {found}")
    return ControlPart(
        config=stored.config,
        tensors=stored.tensors,
        what=str(folder),
        words=f"ControlNet for {describe(family_of_config(stored.config), stored.config.get('cross_attention_dim'))}",
        kind=kind or stored.kind or guessed,
        sides=stored.sides,
    )


def _of_file(path: Path, kind: str | None, guessed: str | None, base_unet: Mapping[str, Tensor] | None) -> ControlPart:
    checkpoint = unwrapped(open_checkpoint(path))
    recognized = recognize(checkpoint, "control")
    check_marks(checkpoint.tensors, str(path))
    kind, sides = kind or checkpoint.metadata.get("tether.kind"), _sides(checkpoint)
    if recognized.layout == "diffusers" and _has_settings_beside(path):
        config, beside_kind, beside_sides = read_settings(path.parent)
        kind = kind or beside_kind or guessed or guess_kind(path.parent.name)
        sides = beside_sides if sides is None else sides
    else:
        kind = kind or guessed
        pools = find_kind(kind).pools_globally
        config = _settings_of_shape(checkpoint.tensors, recognized) | {"global_pool_conditions": pools}
    config |= _stored_settings(checkpoint)
    part = ControlPart(config, {}, str(path), recognized.words, kind=kind, sides=sides)
    rest = dict(checkpoint.tensors)
    marks = [rest.pop(name) for name in list(rest) if _MARK.fullmatch(name)]
    own = {name.removeprefix(recognized.prefix): t for name, t in rest.items() if name.startswith(recognized.prefix)}
    beside = [name for name in rest if not name.startswith(recognized.prefix)]
    if recognized.layout == "diffusers":
        _leave_out(part, own, part.expected, beside)
        part.tensors = own
        return part
    pairs = control_pairs(recognized.shape, part.expected)
    _leave_out(part, own, [pair.original for pair in pairs], beside)
    part.tensors, _ = to_diffusers(pairs, own)
    if marks:
        part.check()
        part.tensors = _added_back(part, base_unet)
        part.notes.append("the base was added back to the difference")
    return part


def _has_settings_beside(weights: Path) -> bool:
    """Whether a ControlNet's config.json beside a file of weights is for it."""
    config = weights.parent / "config.json"
    if not config.is_file() or not are_settings_of(weights, STEMS):
        return False
    return read_json(config).get("_class_name") == "ControlNetModel"


def _sides(checkpoint: Checkpoint) -> Sides | None:
    """The recommended `Injection.sides` in a file's metadata, if there are any."""
    said = checkpoint.metadata.get("tether.sides")
    try:
        return None if said is None else checked_sides(said if said.isalpha() else float(said))
    except (ValueError, TetherError):
        return None


def _leave_out(part: ControlPart, own: dict[str, Tensor], expected: Iterable[str], beside: list[str]) -> None:
    """Removes from a control's tensors those outside of its modules, and notes them and what is beside the control.

    Raises:
        TetherError: if a module has a tensor too many, or strengths of its own are beside the modules.
    """
    strays, inside = split_strays(own, expected)
    inside += [name for name in strays if STRENGTHS.search(name)]
    if inside:
        raise TetherError(
            f"{part.what} holds {len(inside)} tensors that do not belong in a {part.words}: {', '.join(inside[:3])}"
        )
    for name in strays:
        del own[name]
    if any(name.startswith(BASE_PREFIXES) for name in beside):
        part.notes.append("left out: the base model in the same file")
    beside = [name for name in beside if not name.startswith(BASE_PREFIXES) and not UNUSED.fullmatch(name)]
    if strays or beside:
        part.notes.append(left_out_words(strays + beside))
        logger.warning("%s: %s", part.what, part.notes[-1])


def _stored_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings in a file's metadata.

    Raises:
        TetherError: if they are not valid.
    """
    pools = {"true": True, "false": False}.get(checkpoint.metadata.get(POOLS, ""))
    try:
        more = json.loads(checkpoint.metadata.get(SETTINGS, "{}"))
    except (ValueError, RecursionError):
        more = None
    if not isinstance(more, dict) or not more.keys() <= UNSHAPED:
        raise TetherError(f"{checkpoint.path} is damaged: its metadata {SETTINGS} is not a JSON object of settings")
    return more if pools is None else more | {"global_pool_conditions": pools}


def _settings_of_shape(tensors: Mapping[str, Tensor], recognized: Recognized) -> dict[str, Any]:
    """The settings of a ControlNet that the shapes of its tensors determine."""
    original = recognized.layout == "original"
    hint = f"{recognized.prefix}input_hint_block." if original else "controlnet_cond_embedding."
    # Every second convolution of the hint encoder widens: their inputs, and the last one's, are its channels.
    names = (
        [f"{hint}{2 * k}.weight" for k in range(1, 16)] if original else [f"{hint}blocks.{k}.weight" for k in range(15)]
    )
    inner = [tensors[name] for name in names if name in tensors]
    if not original:
        inner.append(tensors[f"{hint}conv_out.weight"])
    first = tensors[f"{hint}0.weight" if original else f"{hint}conv_in.weight"]
    return recognized.shape.config() | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": [tensor.shape[1] for tensor in inner[::2]],
    }


def _added_back(part: ControlPart, base_unet: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """difference + base, in float32, for every tensor that the base has too."""
    if base_unet is None:
        raise TetherError(
            f"{part.what} holds a control's difference to its base model: give that base too (--base, or base=)"
        )
    whole = {}
    for name, tensor in part.tensors.items():
        twin = base_unet.get(name)
        if twin is not None and twin.shape != tensor.shape:
            raise TetherError(
                f"{part.what} is a difference to another base model: {name} is {tuple(twin.shape)} in this one"
            )
        whole[name] = tensor if twin is None else (tensor.float() + twin.detach().cpu().float()).to(tensor.dtype)
    return whole
