"""Opens a base from one file in the original layout (`.safetensors` or `.ckpt`), offline.

    model.diffusion_model.*     the denoiser
    first_stage_model.*         the autoencoder
    cond_stage_model.*          the text encoder; conditioner.embedders.0 and .1 are SDXL's two

What no tensor contains (the noise schedule, the autoencoder's scale, the tokenizer's vocabulary) is the same for all
models of a family, and ships with Tether. Every tensor of the file is used, known to be unused, left out with a
note, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tether.base.parts import Part, Parts
from tether.base.tokenizer import own_clip_tokenizer
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import read_json
from tether.formats.clip_vocabulary import clip_tokenizer
from tether.formats.families import (
    BASE_PREFIXES,
    DROPPED,
    LAST_OF_SD2,
    UNET,
    UNUSED,
    UNUSED_IN_SD2,
    VAE,
    family_settings,
)
from tether.formats.names import to_diffusers
from tether.formats.recognize import Recognized, prediction_of, recognize
from tether.formats.sampling import SAMPLING, with_sampling
from tether.formats.strays import check_marks, left_out_words, unwrapped
from tether.formats.text import clip_pairs, open_clip_layers, open_clip_pairs, text_config
from tether.formats.unet import unet_pairs
from tether.formats.vae import modern_names, vae_config, vae_pairs

__all__ = ["parts_of_file", "vae_of_file"]


def parts_of_file(
    path: Path, *, vae: Part | None = None, prediction_type: str | None = None, light: bool = False
) -> Parts:
    """The networks of a single file, recognized and checked.

    Args:
        path: the file.
        vae: an autoencoder to use instead of its own.
        prediction_type: "epsilon" or "v_prediction"; decided from the file by default.
        light: as in `tether.base.folder.parts_of_folder`.

    Raises:
        TetherError: if it is not a base, is incomplete, or has unexpected tensors.
    """
    checkpoint = unwrapped(open_checkpoint(path))
    recognized = recognize(checkpoint, "base")
    check_marks(checkpoint.tensors, str(path))
    family = recognized.family
    settings = with_sampling(family_settings(family), checkpoint.metadata, str(path))
    prediction, reason = (prediction_type, "as given") if prediction_type else prediction_of(checkpoint, recognized)
    if prediction not in ("epsilon", "v_prediction"):
        raise TetherError(f"{prediction!r} is not a supported prediction type: expected epsilon or v_prediction")
    if family == "sd2" and prediction == "v_prediction" and SAMPLING not in checkpoint.metadata:
        settings["unet"]["sample_size"] = 96  # models that predict velocity were trained on 768 pixels
    rest, notes = _without_dropped(_one_projection(checkpoint.tensors))
    try:
        unet = _unet(path, recognized, settings, rest)
        texts = [replace(text, light=light) for text in _texts(path, recognized, rest)]
        own_vae = _vae(path, settings, rest) if vae is None or any(n.startswith(VAE) for n in rest) else None
    except TetherError as error:
        raise TetherError(str(error) if str(path) in str(error) else f"cannot open {path}: {error}") from None
    rest, strays = _without_strays(path, recognized, rest)
    schedule = settings["scheduler"] | {"prediction_type": prediction}
    if "ztsnr" in rest:
        schedule["rescale_betas_zero_snr"] = True
    tokenizer = own_clip_tokenizer if light else clip_tokenizer
    parts = Parts(
        family=family,
        words=f"{recognized.words}, {prediction.replace('_', '-')} ({reason})",
        unet=unet,
        vae=_scaled(vae, own_vae, settings),
        text_encoder=texts[0],
        scheduler=schedule,
        index=settings["index"],
        tokenizer=tokenizer("!" if family == "sd2" else "<|endoftext|>"),
        original_only=rest,
        notes=[*notes, *strays],
    )
    if len(texts) == 2:
        parts = replace(parts, text_encoder_2=texts[1], tokenizer_2=tokenizer("!"))
    for part in parts.networks().values():
        part.check()
    return parts


def _one_projection(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with SDXL's second projection `(in, out)`, where a file only has it as a linear layer's weight."""
    name = "conditioner.embedders.1.model.text_projection"
    linear = tensors.get(f"{name}.weight")
    return dict(tensors) if linear is None or name in tensors else {**tensors, name: linear.T}


def _without_dropped(rest: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file without those that are known to be of no use, and notes about them."""
    notes = []
    for pattern, words in DROPPED:
        dropped = [name for name in rest if re.fullmatch(pattern, name)]
        if dropped:
            notes.append(f"left out: {words}")
        rest = {name: tensor for name, tensor in rest.items() if name not in set(dropped)}
    return rest, notes


def _without_strays(path: Path, recognized: Recognized, rest: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that no network took, without those outside of the networks, and notes about the latter.

    Raises:
        TetherError: if there are tensors too many inside of a network.
    """
    known = [UNUSED, UNUSED_IN_SD2] if recognized.family == "sd2" else [UNUSED]
    strange = [name for name in rest if not any(pattern.fullmatch(name) for pattern in known)]
    inside = [name for name in strange if name.startswith(BASE_PREFIXES)]
    if inside:
        raise TetherError(
            f"{path} has {len(inside)} unexpected tensors for {recognized.words}: {', '.join(inside[:3])}"
        )
    rest = {name: tensor for name, tensor in rest.items() if name not in set(strange)}
    return rest, [left_out_words(strange)] if strange else []


def vae_of_file(path: Path) -> Part:
    """An autoencoder from its own file (`vae-ft-mse-840000`) or from a base's, without a scaling factor.

    Raises:
        TetherError: if there is none.
    """
    checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors
    prefix = VAE if any(name.startswith(VAE) for name in tensors) else ""
    if prefix + "encoder.conv_in.weight" not in tensors:
        raise TetherError(f"{path} contains no autoencoder: expected one of Stable Diffusion 1.x, 2.x or XL")
    if f"{prefix}encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:  # diffusers' names: a file of its folder
        if not (path.parent / "config.json").is_file():
            raise TetherError(
                f"{path} is in the diffusers layout, without config.json beside it: pass its whole folder"
            )
        return Part(read_json(path.parent / "config.json"), modern_names(dict(tensors)), str(path))
    try:
        vae = _vae(path, {"vae": {}}, dict(tensors), prefix)
    except TetherError as error:
        raise TetherError(f"cannot open {path} as an autoencoder: {error}") from None
    vae.check()
    return vae


def _taken(pairs: Any, rest: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with a prefix, under diffusers' names; they are removed from `rest`."""
    own = {name.removeprefix(prefix): tensor for name, tensor in rest.items() if name.startswith(prefix)}
    found, used = to_diffusers(pairs, own)
    for name in used:
        del rest[prefix + name]
    return found


def _unet(path: Path, recognized: Recognized, settings: Mapping[str, Any], rest: dict[str, Tensor]) -> Part:
    shape = recognized.shape
    last = rest.get(f"{UNET}out.2.weight")
    config = settings["unet"] | shape.unet_config(4 if last is None else last.shape[0])
    unet = Part(config, {}, f"{path} (denoiser)")
    unet.tensors = _taken(unet_pairs(shape, unet.network.state_dict()), rest, UNET)
    return unet


def _vae(path: Path, settings: Mapping[str, Any], rest: dict[str, Tensor], prefix: str = VAE) -> Part:
    if not any(name.startswith(prefix) for name in rest):
        raise TetherError("it has no autoencoder: pass one with --vae")
    config = vae_config(rest, prefix) | settings["vae"]
    vae = Part(config, {}, f"{path} (autoencoder)")
    pairs = vae_pairs(len(config["block_out_channels"]), vae.network.state_dict())
    vae.tensors = _taken(pairs, rest, prefix)
    return vae


def _scaled(given: Part | None, own: Part | None, settings: Mapping[str, Any]) -> Part:
    """The autoencoder to use; one from its own file gets the scaling factor of the base's family."""
    if given is None:
        assert own is not None
        return own
    return replace(given, config=settings["vae"] | given.config)


def _texts(path: Path, recognized: Recognized, rest: dict[str, Tensor]) -> list[Part]:
    if recognized.family == "sd1":
        return [_clip(path, rest, "cond_stage_model.transformer.")]
    if recognized.family == "sd2":
        return [_open_clip(path, rest, "cond_stage_model.model.", projection=False)]
    return [
        _clip(path, rest, "conditioner.embedders.0.transformer."),
        _open_clip(path, rest, "conditioner.embedders.1.model.", projection=True),
    ]


def _clip(path: Path, rest: dict[str, Tensor], prefix: str) -> Part:
    names = [n.removeprefix(prefix) for n in rest if n.startswith(prefix) and not UNUSED.fullmatch(n)]
    bare = not any(name.startswith("text_model.") for name in names)
    tensors = _taken(clip_pairs([f"text_model.{name}" for name in names] if bare else names, bare), rest, prefix)
    return Part(text_config(tensors, "quick_gelu"), tensors, f"{path} (text encoder)")


def _open_clip(path: Path, rest: dict[str, Tensor], prefix: str, projection: bool) -> Part:
    layers = open_clip_layers(rest, prefix)
    if not projection and (layers == LAST_OF_SD2 or f"{prefix}text_projection" in rest):
        layers -= 1
    tensors = _taken(open_clip_pairs(layers, projection), rest, prefix)
    return Part(text_config(tensors, "gelu"), tensors, f"{path} (OpenCLIP text encoder)")
