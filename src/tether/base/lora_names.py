"""The names of a LoRA's tensors, as its many trainers write them: which weight each changes, and its role there.

    lora_unet_down_blocks_0_..._to_q.lora_down.weight                     kohya, diffusers' names
    lora_unet_input_blocks_1_1_..._to_q.lora_down.weight                  kohya for SDXL, original names
    lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight           kohya; te, te1 and te2 are the text encoders
    unet.down_blocks.0...to_q.lora_A.weight, ...lora.down.weight          diffusers; text_encoder., text_encoder_2.
    unet.down_blocks.0...processor.to_q_lora.down.weight                  diffusers before 0.22; `unet.` may be missing
    base_model.model.down_blocks.0...to_q.lora_A.default.weight           peft

Names are compared with "." read as "_", because kohya's have no dots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from tether.base.base import Base
from tether.errors import TetherError
from tether.formats.shape import encoder_of_diffusers
from tether.formats.unet import unet_pairs

__all__ = ["Place", "layers_of", "role_of", "split"]

ROLES = (
    (
        "down",
        r"[._]lora\.down\.weight|\.lora_down\.weight|\.lora_linear_layer\.down\.weight|\.lora_A(\.[^.]+)?\.weight",
    ),
    ("up", r"[._]lora\.up\.weight|\.lora_up\.weight|\.lora_linear_layer\.up\.weight|\.lora_B(\.[^.]+)?\.weight"),
    ("mid", r"\.lora_mid\.weight"),
    ("alpha", r"([._]lora|\.lora_linear_layer)?\.alpha"),
    ("magnitude", r"\.dora_scale|\.lora_magnitude_vector(\.[^.]+)?(\.weight)?"),
    *((name, rf"\.{name}") for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    *((f"lokr_{name}", rf"\.lokr_{name}") for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    ("diff", r"\.diff|\.w_norm"),
    ("diff_b", r"\.diff_b|\.b_norm"),
)
"""Role -> the ends of names that have it."""
ENDS = re.compile("(?:" + "|".join(f"(?P<{role}>{ends})" for role, ends in ROLES) + r")\Z")

PARTS = (
    ("unet", r"(base_model\.model\.)?unet\.|lora_unet_|(model\.)?diffusion_model\."),
    ("text_encoder_2", r"(base_model\.model\.)?text_encoder_2\.|lora_te2_|text_encoders\.clip_g\.transformer\."),
    ("text_encoder", r"(base_model\.model\.)?text_encoder\.|lora_te1?_|text_encoders\.clip_l\.transformer\."),
    ("text_encoder", r"(base_model\.model\.)?(?=text_model[._]|encoder\.layers\.)"),
    ("unet", r"base_model\.model\.|(?=(down|mid|up)_blocks?\.)"),
)
"""Part of a base -> the beginnings of names in it."""
OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True)
class Place:
    """The weight of a base that a LoRA's layer changes.

    Attributes:
        part: the attribute of the base.
        name: of the module.
        module: the module; it has a `weight`.
    """

    part: str
    name: str
    module: nn.Module


def role_of(name: str) -> tuple[str, str] | None:
    """The layer that a tensor belongs to, and its role there; None if it is no part of a LoRA."""
    match = ENDS.search(name)
    if match is None or match.start() == 0:
        return None
    return name[: match.start()], next(role for role, _ in ROLES if match[role] is not None)


def split(layer: str) -> tuple[str, str] | None:
    """The part of a base that a layer's name begins with, and the rest of it; None if it begins with none."""
    for part, begins in PARTS:
        match = re.match(begins, layer)
        if match is not None:
            return part, layer[match.end() :]
    return None


def layers_of(base: Base, names: list[str]) -> dict[str, Place]:
    """The places of a LoRA's layers, by name, for those that a base has."""
    tables = {part: _modules(base, part) for part in ("unet", "text_encoder", "text_encoder_2")}
    found = {}
    for name in names:
        part, rest = split(name) or ("", "")
        place = tables.get(part, {}).get(_key(part, rest))
        if place is not None:
            found[name] = place
    return found


def _key(part: str, name: str) -> str:
    """A module's name as names are compared."""
    key = name.replace(".processor.", ".").replace(".", "_")
    if part == "unet":
        return f"{key}_0" if key.endswith("_to_out") else key
    key = key.removeprefix("text_model_")
    return re.sub(r"self_attn_(to_q|to_k|to_v|to_out)\Z", lambda match: f"self_attn_{OLD_TEXT[match[1]]}", key)


def _modules(base: Base, part: str) -> dict[str, Place]:
    """The modules of a part that have a weight, by the names they are compared by."""
    network = getattr(base, part)
    if network is None:
        return {}
    places = {
        name: Place(part, name, module)
        for name, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    found = {_key(part, name): place for name, place in places.items()}
    if part == "unet":
        for original, name in _original_names(network):
            if name in places:
                found.setdefault(_key(part, original), places[name])
    return found


def _original_names(unet: nn.Module) -> list[tuple[str, str]]:
    """Modules' names in the original layout and diffusers' names; none for denoisers that the layout cannot store."""
    tensors = unet.state_dict()
    try:
        pairs = unet_pairs(encoder_of_diffusers(tensors), tensors)
    except TetherError:
        return []
    return [
        (pair.original.removesuffix(".weight"), name.removesuffix(".weight"))
        for pair in pairs
        for name in pair.diffusers
        if name.endswith(".weight")
    ]
