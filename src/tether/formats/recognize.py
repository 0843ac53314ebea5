"""What a file of tensors contains, decided by its tensors alone.

    Stable Diffusion 1.x   CLIP at `cond_stage_model.transformer`; transformers project with convolutions
    Stable Diffusion 2.x   OpenCLIP at `cond_stage_model.model`; transformers project with linear layers
    Stable Diffusion XL    two text encoders at `conditioner.embedders`; linear layers; `label_emb`
    a ControlNet for them  `input_hint_block` (original layout) or `controlnet_cond_embedding` (diffusers)

Widths, levels and depths are read from the shapes, so models of the same architecture and other sizes open as well.
Tensors do not show whether a Stable Diffusion 2.x predicts noise or velocity; see `prediction_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.formats.families import FAMILY_WORDS, UNET, FamilyName, describe
from tether.formats.shape import EncoderShape, encoder_of_diffusers, encoder_of_original

__all__ = ["Recognized", "prediction_of", "recognize"]

SUPPORTED = "bases and ControlNets of Stable Diffusion 1.x, 2.x and XL"

HINT_ORIGINAL, HINT_DIFFUSERS = "input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"

OTHERS = (
    (r"lora_controlnet", "a Control-LoRA"),
    (r"task_embedding", "a ControlNet-Union"),
    (r"edm_vpred\.", "a model with EDM's noise schedule (CosXL)"),
    (r"edm_mean", "a model with EDM's noise schedule (Playground 2.5)"),
    (r"time_stack\.", "Stable Video Diffusion"),
    (r"^lllite_", "a ControlLLLite"),
    (r"lora_unet_|lora_te|\.lora_down\.|\.lora_A\.|\.lora\.down\.", "a LoRA (load it on top of a base)"),
    (r"emb_params|^clip_[gl]$", "a textual-inversion embedding (load it on top of a base)"),
    (r"joint_blocks\.", "Stable Diffusion 3"),
    (r"double_blocks\.|double_stream|single_transformer_blocks\.", "Flux"),
    (r"motion_modules\.", "an AnimateDiff motion module"),
    (r"ip_adapter\.", "an IP-Adapter"),
    (r"^(adapter\.)?body\.\d+\.", "a T2I-Adapter"),
    (r"adaln_single\.", "PixArt"),
    (r"clf\.|effnet_mapper\.", "a Stable Cascade"),
    (r"down_blocks\.", "one network of a diffusers folder (open the folder)"),
    (r"text_model\.", "a text encoder alone"),
    (r"encoder\.down", "an autoencoder alone (pass it as --vae)"),
)
"""Pattern in a tensor's name -> the model that has it. The first match is named in the message."""
LOOKALIKES = 5
"""The first so many look like a supported model in all their other tensors."""


@dataclass(frozen=True)
class Recognized:
    """What a file contains.

    Attributes:
        what: a base, or a ControlNet (with or without the base that it was released with).
        family: the family of the base, or of the base that the ControlNet is for.
        layout: the layout of its names.
        prefix: prefix of the denoiser's or the ControlNet's names.
        shape: of its encoder.
    """

    what: Literal["base", "control"]
    family: FamilyName
    layout: Literal["original", "diffusers"]
    prefix: str
    shape: EncoderShape

    @property
    def words(self) -> str:
        """For messages: "ControlNet for Stable Diffusion 1.x (768-wide text states)"."""
        model = describe(self.family, self.shape.text_width)
        model += " for inpainting" if self.shape.in_channels == 9 else ""
        return f"ControlNet for {model}" if self.what == "control" else model


def recognize(checkpoint: Checkpoint, wanted: Literal["base", "control"] | None = None) -> Recognized:
    """Decides what a file contains.

    Args:
        checkpoint: the file.
        wanted: which of the two to take from a file with both, such as the whole `control_sd15_*.pth`; the control
            by default.

    Raises:
        TetherError: if it is neither, or not the one that is wanted, naming what it is.
    """
    tensors, path = checkpoint.tensors, checkpoint.path
    control = next((prefix for prefix in ("control_model.", "") if prefix + HINT_ORIGINAL in tensors), None)
    has_base = f"{UNET}input_blocks.0.0.weight" in tensors
    odd = _other(tensors, LOOKALIKES)
    if odd or (control is None and not has_base and HINT_DIFFUSERS not in tensors):
        odd = odd or _other(tensors) or f"a file of {len(tensors)} tensors of an unknown model ({_some(tensors)}, ...)"
        raise TetherError(f"{path} is {odd}: supported are {SUPPORTED}")
    try:
        if wanted == "base" or (wanted is None and has_base and control is None):
            if not has_base:
                raise TetherError("expected a base model, found a ControlNet")
            return _base(checkpoint)
        if control is not None:
            shape = encoder_of_original(tensors, control)
            return Recognized("control", shape.family, "original", control, shape)
        if HINT_DIFFUSERS in tensors:
            shape = encoder_of_diffusers(tensors)
            return Recognized("control", shape.family, "diffusers", "", shape)
        raise TetherError("expected a ControlNet, found a base model")
    except TetherError as error:
        raise TetherError(f"cannot open {path}: {error}") from None


def _base(checkpoint: Checkpoint) -> Recognized:
    shape = encoder_of_original(checkpoint.tensors, UNET)
    family = shape.family

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in checkpoint.tensors)

    if family == "sdxl" and has("cond_stage_model.model."):
        raise TetherError(f"it is a Stable unCLIP: supported are {SUPPORTED}")
    first = "conditioner.embedders.0."
    if family == "sdxl" and has(first) and not has(f"{first}transformer."):
        raise TetherError(f"it is the refiner of Stable Diffusion XL: supported are {SUPPORTED}")
    encoders = {
        "sd1": ("cond_stage_model.transformer.",),
        "sd2": ("cond_stage_model.model.",),
        "sdxl": (first, "conditioner.embedders.1."),
    }
    if not all(has(prefix) for prefix in encoders[family]):
        raise TetherError(
            f"expected a whole base model, found the denoiser of {FAMILY_WORDS[family]} without a text encoder"
        )
    return Recognized("base", family, "original", UNET, shape)


def _other(names: Iterable[str], count: int | None = None) -> str | None:
    """The model that is not supported, of the first `count` of `OTHERS`, that has such names; None if none has."""
    for pattern, words in OTHERS[:count]:
        if any(re.search(pattern, name) for name in names):
            return words
    return None


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:2])[:120]


def prediction_of(checkpoint: Checkpoint, recognized: Recognized) -> tuple[str, str]:
    """What a base predicts, "epsilon" or "v_prediction", and the reason.

    In this order: the file's metadata (`modelspec.prediction_type`) or a tensor named `v_pred`; for Stable Diffusion
    2.x the step at which Stability's own files were saved, or else the spread of the last transformer's first bias,
    which is above 0.09 in models trained to predict velocity and below it in the others (an observation that ComfyUI
    relies on, not a law). All others predict noise.
    """
    declared = checkpoint.metadata.get("modelspec.prediction_type", "").lower()
    if declared:
        return ("v_prediction" if declared.startswith("v") else "epsilon"), "from the file's metadata"
    if "v_pred" in checkpoint.tensors:
        return "v_prediction", "the file is marked so"
    if recognized.family != "sd2" or recognized.shape.in_channels != 4:
        return "epsilon", "as all models of this family"
    # 2.0-base was saved at step 875,000 and 2.1-base at 220,000; 2.0-v at 140,000 and 2.1-v at 110,000.
    known = {875_000: "epsilon", 220_000: "epsilon", 140_000: "v_prediction", 110_000: "v_prediction"}
    step = checkpoint.numbers.get("global_step", 0)  # any number that a file contains
    if step in known:
        return known[int(step)], f"Stability's file of step {int(step):,}"
    last = len(recognized.shape.channels) * (recognized.shape.layers + 1) - 1
    bias = checkpoint.tensors.get(f"{UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
    if bias is not None and float(bias.float().std(correction=0)) > 0.09:
        return "v_prediction", "guessed from the spread of its last bias"
    return "epsilon", "guessed from the spread of its last bias"
