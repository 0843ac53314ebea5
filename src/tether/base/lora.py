"""Merges a LoRA (arXiv:2106.09685) or one of its relatives into the weights of a base.

Every tensor of the file is accounted for: it belongs to a layer of the base, or it is counted and named in a warning,
or the file is refused. `tether.base.lora_names` knows the names, `tether.base.lora_layers` the arithmetic.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.base.adapter_file import open_adapter
from tether.base.base import Base
from tether.base.lora_layers import Layer
from tether.base.lora_names import Place, layers_of, role_of, split
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.files.folder import are_settings_of, read_json
from tether.files.hub import fetch_beside
from tether.files.materialize import cast
from tether.files.paths import local_path

__all__ = ["add_lora"]

logger = logging.getLogger(__name__)

METADATA, CONFIG = "lora_adapter_metadata", "adapter_config.json"
"""Where diffusers' trainers (in the file) and peft (beside it) keep the alphas."""
PEFT = "adapter_model."
"""What peft's name of the file beside `CONFIG` begins with."""
NOT_SUPPORTED = (
    (r"^lora_controlnet$", "a Control-LoRA, which is a control, not a LoRA of a base"),
    (r"\.(oft_blocks|oft_diag|oft_r|boft_\w+)\b", "an OFT"),
    (r"\.(on_input|ia3_l)\b", "an IA3"),
    (r"\.[ab][12]\.weight$", "a GLoRA"),
    (r"\bvera_lambda", "a VeRA"),
    (r"\bhra_u\b", "an HRA"),
)
"""Pattern of a tensor's name -> what has it."""
SUPPORTED = "LoRA, DoRA, LoHa, LoKr and full differences"


def add_lora(base: Base, ref: str | Path, strength: float = 1.0) -> None:
    """Merges a LoRA into a base's weights: W + strength * dW, with dW as in `tether.base.lora_layers`.

    The sums are computed in float32. Weights that change become new tensors: a copy, or a control, that shares the old
    ones keeps them. If tensors of the file have no place in the base, a warning counts and names them.

    Args:
        base: changed in place; as it was if there is an error.
        ref: a file or folder (names of kohya, LyCORIS, diffusers or peft), or a name on the hub
            ("owner/name/file.safetensors").
        strength: 1 is the strength of its training; -1 after 1 removes it again, up to rounding, except for DoRA.

    Raises:
        TetherError: if the file is damaged, not a LoRA, of a kind that is not supported, or made for another kind of
            base.
    """
    checkpoint = open_adapter(ref, "LoRA")
    if _is_pefts(checkpoint) and not _has_alpha(checkpoint) and not _says_alpha(_metadata(checkpoint)):
        fetch_beside(ref, CONFIG, "LoRA")  # where peft writes alphas
    _refuse_other_kinds(checkpoint)
    layers, rest = _layers(checkpoint, on_hub=local_path(ref) is None)
    places = layers_of(base, list(layers))
    if not places:
        first = next(iter(layers))
        raise TetherError(
            f"{checkpoint.path} does not fit the base {base.name}: none of its {len(layers)} layers exist there "
            f"(the first is {first})"
        )
    for name, place in places.items():
        _check(checkpoint, layers[name], place, base)
    left_out = [*rest, *(f"{name} ({layer_size(layers[name])})" for name in layers if name not in places)]
    if left_out:
        tensors = len(rest) + sum(len(layer.tensors) for name, layer in layers.items() if name not in places)
        logger.warning(
            "%s: %d of its %d tensors have no place in %s and are left out: %s",
            checkpoint.path, tensors, len(checkpoint.tensors), base.name, _some(left_out),
        )  # fmt: skip
    for name, place in places.items():
        _merge(layers[name], place.module, strength)


def layer_size(layer: Layer) -> str:
    """For messages: "2 tensors"."""
    return f"{len(layer.tensors)} tensor{'s' if len(layer.tensors) != 1 else ''}"


def _refuse_other_kinds(checkpoint: Checkpoint) -> None:
    for name in checkpoint.tensors:
        for pattern, words in NOT_SUPPORTED:
            if re.search(pattern, name, re.IGNORECASE):
                raise TetherError(f"{checkpoint.path} is {words} (it has {name}): supported are {SUPPORTED}")


def _layers(checkpoint: Checkpoint, on_hub: bool) -> tuple[dict[str, Layer], list[str]]:
    """The layers of a file by name, and the tensors that belong to none.

    Raises:
        TetherError: if it has no layer, or its metadata is damaged.
    """
    grouped: dict[str, dict[str, tuple[str, Tensor]]] = {}
    rest = []
    for name, tensor in checkpoint.tensors.items():
        found = role_of(name)
        if found is None or found[1] in grouped.get(found[0], {}):
            rest.append(name)
        else:
            grouped.setdefault(found[0], {})[found[1]] = (name, tensor)
    declared, where = _declared(checkpoint, on_hub)
    layers = {}
    for name, roles in grouped.items():
        number = roles.pop("alpha", None)
        if not roles:
            rest += [number[0]] if number else []
            continue
        what = str(checkpoint.path)
        tensors = {role: cast(tensor, torch.float32, own, what) for role, (own, tensor) in roles.items()}
        if "magnitude" in roles and "lora_magnitude_vector" in roles["magnitude"][0]:
            # peft's: one number an output, of a convolution (1, out, 1, 1).
            tensors["magnitude"] = tensors["magnitude"].flatten()
        if number is not None:
            layers[name] = Layer(name, tensors, _number(number[1], number[0], checkpoint))
        else:
            layers[name] = Layer(name, tensors, *_alpha(declared, name, where))
    if not layers:
        raise TetherError(
            f"{checkpoint.path} contains no LoRA weights: none of its {len(checkpoint.tensors)} tensors has a name of "
            f"one (supported are {SUPPORTED})"
        )
    return layers, rest


def _number(tensor: Tensor, name: str, checkpoint: Checkpoint) -> float:
    if tensor.numel() != 1:
        raise TetherError(f"{checkpoint.path} is damaged: {name} has shape {tuple(tensor.shape)}, expected one number")
    return float(cast(tensor.float(), torch.float32, name, str(checkpoint.path)))


def _declared(checkpoint: Checkpoint, on_hub: bool) -> tuple[dict[str, Any], str]:
    """What is said about alphas ("unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora", ...), and where.

    A file's own metadata come first. peft's settings beside it are for its own file, or for the only one there; on the
    hub, of which not all files are here, for its own alone.

    Raises:
        TetherError: if it is not valid JSON.
    """
    own, path = _metadata(checkpoint), checkpoint.path
    beside = path.parent / CONFIG
    if not _says_alpha(own) and beside.is_file():
        if _is_pefts(checkpoint) or (not on_hub and are_settings_of(path, (PEFT,))):
            return read_json(beside), f"{beside} is damaged: it"
        if not _has_alpha(checkpoint):
            logger.warning(
                "%s has no alpha, and %s may be another file's: the scale is 1 (to use it, name this file %s)",
                path, beside, f"{PEFT}{path.suffix[1:]}",
            )  # fmt: skip
    return own, f"{path} is damaged: its metadata {METADATA}"


def _is_pefts(checkpoint: Checkpoint) -> bool:
    return checkpoint.path.name.startswith(PEFT)


def _has_alpha(checkpoint: Checkpoint) -> bool:
    return any((role_of(name) or ("", ""))[1] == "alpha" for name in checkpoint.tensors)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file's metadata say about alphas.

    Raises:
        TetherError: if they are not valid JSON.
    """
    loose: dict[str, Any] = {key: value for key, value in checkpoint.metadata.items() if key.endswith("lora_alpha")}
    try:
        stored = json.loads(checkpoint.metadata.get(METADATA, "{}"))
    except (ValueError, TypeError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise TetherError(f"{checkpoint.path} is damaged: its metadata {METADATA} has no valid lora_alpha")
    return loose | stored


def _says_alpha(declared: Mapping[str, Any]) -> bool:
    return any(key.endswith(("lora_alpha", "alpha_pattern")) for key in declared)


def _alpha(declared: Mapping[str, Any], layer: str, where: str) -> tuple[float | None, bool]:
    """The alpha of a layer by metadata, and whether it is rank-stabilized.

    Raises:
        TetherError: beginning with `where`, if it is not a finite number.
    """
    part, rest = split(layer) or ("", layer)
    of = {
        key: declared.get(f"{part}.{key}", declared.get(key)) for key in ("lora_alpha", "alpha_pattern", "use_rslora")
    }
    pattern = of["alpha_pattern"] or {}
    if not isinstance(pattern, dict):
        raise TetherError(f"{where} has no valid alpha_pattern: {_shown(pattern)}, expected an object of numbers")
    alpha = next((value for key, value in pattern.items() if _ends_with(rest, key)), of["lora_alpha"])
    if alpha is None:
        return None, bool(of["use_rslora"])
    try:
        number = float(alpha)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TetherError(f"{where} has no valid lora_alpha for {layer}: {_shown(alpha)}, expected a finite number")
    return number, bool(of["use_rslora"])


def _shown(value: object) -> str:
    return repr(value)[:40]


def _ends_with(name: str, suffix: str) -> bool:
    """Whether a key of peft's `alpha_pattern` is for this module."""
    return name == suffix or name.endswith(f".{suffix}")


def _check(checkpoint: Checkpoint, layer: Layer, place: Place, base: Base) -> None:
    module = place.module
    try:
        layer.check(module.weight)  # type: ignore[arg-type]
        if "diff_b" in layer.tensors:
            bias = module.bias
            if not isinstance(bias, Tensor) or bias.numel() != layer.tensors["diff_b"].numel():
                raise TetherError(f"layer {layer.name} changes a bias that {place.name} does not have")
    except TetherError as error:
        raise TetherError(f"{checkpoint.path} does not fit the base {base.name}: {error}") from None


def _merge(layer: Layer, module: Any, strength: float) -> None:
    if layer.tensors.keys() != {"diff_b"}:
        module.weight = nn.Parameter(layer.merged(module.weight, strength), requires_grad=False)
    if "diff_b" in layer.tensors:
        module.bias = nn.Parameter(layer.merged_bias(module.bias, strength), requires_grad=False)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
