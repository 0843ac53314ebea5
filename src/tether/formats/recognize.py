"""What a file of tensors is, told from its tensors alone.

    Stable Diffusion 1.x   CLIP at `cond_stage_model.transformer`; transformers project with convolutions
    Stable Diffusion 2.x   OpenCLIP at `cond_stage_model.model`; with linear layers
    Stable Diffusion XL    both encoders at `conditioner.embedders`; with linear layers; `label_emb`
    a ControlNet of them   `input_hint_block` (released) or `controlnet_cond_embedding` (diffusers)

Widths, levels and depths are read from the shapes, so that models of the same make and another size open as well.
What the tensors do not say is whether a Stable Diffusion 2.x predicts noise or velocity; `prediction_of` says how that
is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.formats.shape import EncoderShape, encoder_of_diffusers, encoder_of_released

__all__ = ["FAMILY_WORDS", "Recognised", "prediction_of", "recognise"]

FAMILY_WORDS = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "bundled": "Tether's own base",
    "custom": "a latent diffusion model of its own kind",
}
SUPPORTED = "bases and ControlNets of Stable Diffusion 1.x, 2.x and XL"

UNET = "model.diffusion_model."
HINT_RELEASED, HINT_DIFFUSERS = "input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"

OTHERS = (
    ("lora_controlnet", "a Control-LoRA"),
    ("task_embedding", "a ControlNet-Union"),
    ("edm_vpred.", "a model of EDM's noise schedule (CosXL)"),
    ("edm_mean", "a model of EDM's noise schedule (Playground 2.5)"),
    ("lora_unet_", "a LoRA (load it on top of a base)"),
    ("lora_te", "a LoRA (load it on top of a base)"),
    (".lora_down.", "a LoRA (load it on top of a base)"),
    (".lora_A.", "a LoRA (load it on top of a base)"),
    (".lora.down.", "a LoRA (load it on top of a base)"),
    ("emb_params", "a textual-inversion embedding (load it on top of a base)"),
    ("clip_g", "a textual-inversion embedding (load it on top of a base)"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("double_stream", "Flux"),
    ("single_transformer_blocks.", "Flux"),
    ("time_stack.", "Stable Video Diffusion"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("ip_adapter.", "an IP-Adapter"),
    ("adapter.body.", "a T2I-Adapter"),
    ("adaln_single.", "PixArt"),
    ("clf.", "a Stable Cascade"),
    ("effnet_mapper.", "a Stable Cascade"),
    ("down_blocks.", "one network of a diffusers folder (open the folder)"),
    ("text_model.", "a text encoder alone"),
    ("encoder.down", "an autoencoder alone (give it as --vae)"),
)
"""Part of a tensor's name -> what has it; the first that is found is said."""
LOOKALIKES = 4
"""The first so many look like what is supported in all their other tensors."""


@dataclass(frozen=True)
class Recognised:
    """What a file holds.

    Attributes:
        what: a base, or a ControlNet (with or without the base that it was released with).
        family: "sd1", "sd2" or "sdxl".
        layout: whose names its tensors have.
        prefix: what the denoiser's or the ControlNet's names begin with.
        shape: of its encoder.
    """

    what: Literal["base", "control"]
    family: Literal["sd1", "sd2", "sdxl"]
    layout: Literal["released", "diffusers"]
    prefix: str
    shape: EncoderShape

    @property
    def words(self) -> str:
        """For people: "ControlNet for Stable Diffusion 1.x (768-wide text states)"."""
        model = f"{FAMILY_WORDS[self.family]} ({self.shape.text_width}-wide text states)"
        model += " for inpainting" if self.shape.in_channels == 9 else ""
        return f"ControlNet for {model}" if self.what == "control" else model


def recognise(checkpoint: Checkpoint, wanted: Literal["base", "control"] | None = None) -> Recognised:
    """Says what a file holds.

    Args:
        checkpoint: the file.
        wanted: which of the two is meant where it holds both, as the whole `control_sd15_*.pth` do; the control where
            nothing is said.

    Raises:
        TetherError: where it is neither, or not the one that is wanted, saying what it is instead.
    """
    tensors, path = checkpoint.tensors, checkpoint.path
    control = next((prefix for prefix in ("control_model.", "") if prefix + HINT_RELEASED in tensors), None)
    has_base = f"{UNET}input_blocks.0.0.weight" in tensors
    odd = next((words for part, words in OTHERS[:LOOKALIKES] if any(part in name for name in tensors)), None)
    if odd or (control is None and not has_base and HINT_DIFFUSERS not in tensors):
        raise TetherError(f"{path} is {odd or _other(checkpoint)}: supported are {SUPPORTED}")
    try:
        if wanted == "base" or (wanted is None and has_base and control is None):
            if not has_base:
                raise TetherError("it is a ControlNet, and a base is wanted here")
            return _base(checkpoint)
        if control is not None:
            shape = encoder_of_released(tensors, control)
            return Recognised("control", _family(shape), "released", control, shape)
        if HINT_DIFFUSERS in tensors:
            shape = encoder_of_diffusers(tensors)
            return Recognised("control", _family(shape), "diffusers", "", shape)
        raise TetherError("it is a base, and a ControlNet is wanted here")
    except TetherError as error:
        raise TetherError(f"{path} does not open: {error}") from None


def _base(checkpoint: Checkpoint) -> Recognised:
    names = checkpoint.tensors
    shape = encoder_of_released(names, UNET)
    clip = any(name.startswith("cond_stage_model.transformer.") for name in names)
    open_clip = any(name.startswith("cond_stage_model.model.") for name in names)
    both = [any(name.startswith(f"conditioner.embedders.{k}.") for name in names) for k in (0, 1)]
    family = _family(shape)
    if family == "sdxl" and open_clip:
        raise TetherError(f"it is a Stable unCLIP: supported are {SUPPORTED}")
    if family == "sdxl" and both[0] and not any(n.startswith("conditioner.embedders.0.transformer.") for n in names):
        raise TetherError(f"it is the refiner of Stable Diffusion XL: supported are {SUPPORTED}")
    whole = {"sd1": clip, "sd2": open_clip, "sdxl": all(both)}
    if not whole[family]:
        raise TetherError(
            f"it holds the denoiser of {FAMILY_WORDS[family]} without its text encoder: a whole base is wanted here"
        )
    return Recognised("base", family, "released", UNET, shape)


def _family(shape: EncoderShape) -> Literal["sd1", "sd2", "sdxl"]:
    if shape.added_width is not None:
        return "sdxl"
    return "sd2" if shape.linear else "sd1"


def _other(checkpoint: Checkpoint) -> str:
    names = list(checkpoint.tensors)
    for part, words in OTHERS:
        if any(part in name for name in names):
            return words
    return f"a file of {len(names)} tensors that no known model has ({', '.join(names[:2])[:120]}, ...)"


def prediction_of(checkpoint: Checkpoint, recognised: Recognised) -> tuple[str, str]:
    """What a base predicts, "epsilon" or "v_prediction", and how that is known.

    In this order: what the file says of itself (`modelspec.prediction_type`, or a tensor named `v_pred`); for Stable
    Diffusion 2.x the step at which Stability's own files were saved, and else the spread of the last transformer's
    first bias, which is above 0.09 in the models trained to predict velocity and below in the others (an observation
    that ComfyUI relies on, not a law). All others predict noise.
    """
    said = checkpoint.metadata.get("modelspec.prediction_type", "").lower()
    if said:
        return ("v_prediction" if said.startswith("v") else "epsilon"), "the file says so"
    if "v_pred" in checkpoint.tensors:
        return "v_prediction", "the file is marked so"
    if recognised.family != "sd2" or recognised.shape.in_channels != 4:
        return "epsilon", "all of its kind do"
    # 2.0-base was saved at step 875,000 and 2.1-base at 220,000; 2.0-v at 140,000 and 2.1-v at 110,000.
    known = {875_000: "epsilon", 220_000: "epsilon", 140_000: "v_prediction", 110_000: "v_prediction"}
    step = checkpoint.numbers.get("global_step", 0)  # whatever number a file gives
    if step in known:
        return known[int(step)], f"Stability saved it at step {int(step):,}"
    last = len(recognised.shape.channels) * (recognised.shape.layers + 1) - 1
    bias = checkpoint.tensors.get(f"{UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
    if bias is not None and float(bias.float().std(correction=0)) > 0.09:
        return "v_prediction", "its last bias is spread as in those that do"
    return "epsilon", "its last bias is spread as in those that do"
