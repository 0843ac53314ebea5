"""A base in the original layout: the tensors and metadata of its file.

The layout stores no settings. A base with others than a reader of its file assumes is refused, as is one with a tensor
that the layout has no name for: what is written opens again as the same base, but for `upcast_attention` and
`force_upcast`, which are about rounding in 16 bits and not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from tether.base.noise import noise_process
from tether.base.parts import Part, Parts
from tether.errors import TetherError
from tether.formats.families import LAST_OF_SD2, UNET, VAE, family_settings
from tether.formats.names import Pair, to_original
from tether.formats.sampling import SAMPLING, differing_sampling
from tether.formats.shape import EncoderShape, default_settings, differing_settings, shape_to_store
from tether.formats.text import clip_pairs, open_clip_pairs, text_config
from tether.formats.unet import unet_pairs
from tether.formats.vae import vae_config, vae_pairs

__all__ = ["Original", "original_of"]

NOISE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "trained_betas")
"""Settings of the noise schedule that are the same for a whole family, and not stored in the original layout."""
FREE = ("sample_size", "upcast_attention", "force_upcast")
"""Settings that a reader need not know: the first is metadata, the others are about rounding in 16 bits."""
CLIP, OPEN_CLIP = "quick_gelu", "gelu"
"""The two kinds of text encoders, by activation."""
OF_TEXT = ("hidden_act", "num_attention_heads", "layer_norm_eps")
"""Settings of a text encoder that are not in the shapes of its tensors."""


@dataclass
class Original:
    """The content of a base's file.

    Attributes:
        tensors: under the names of the original layout.
        metadata: what no tensor tells.
        notes: what the file cannot store, for the user.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: list[str] = field(default_factory=list)


def original_of(parts: Parts, suffix: str) -> Original:
    """A base in the original layout.

    Args:
        parts: the base.
        suffix: of the file; only ".safetensors" has metadata.

    Raises:
        TetherError: naming the setting or the tensor that the layout cannot store.
    """
    prediction = noise_process(parts.scheduler).prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise TetherError(
            f"{parts.unet.what} predicts {prediction}, which the original layout cannot store: it stores epsilon and "
            "v_prediction"
        )
    shape = shape_to_store(parts.unet.tensors, parts.unet.what)
    tensors = dict(parts.original_only) | _denoiser(parts, shape) | _autoencoder(parts, shape)
    for prefix, (pairs, encoder) in _text_networks(parts, shape).items():
        tensors |= _prefixed(prefix, pairs, encoder)
    velocity = prediction == "v_prediction"
    _mark(tensors, shape.family, velocity, bool(parts.scheduler.get("rescale_betas_zero_snr")))
    original = Original(tensors, {"modelspec.prediction_type": "v" if velocity else "epsilon"})
    if velocity and shape.family == "sd2" and suffix != ".safetensors":
        original.notes.append(
            f"it predicts velocity, which {suffix} cannot store: use .safetensors, or set the prediction type where "
            "you load it"
        )
    sampling = _sampling(parts, shape.family, velocity)
    if sampling and suffix == ".safetensors":
        original.metadata[SAMPLING] = json.dumps(sampling)
    elif sampling:
        shown = ", ".join(f"{name}={value}" for name, value in sampling.items())
        original.notes.append(f"it is sampled with {shown}, which {suffix} cannot store: use .safetensors")
    return original


def _mark(tensors: dict[str, Tensor], family: str, velocity: bool, zero_snr: bool) -> None:
    """Adds or removes the empty tensors by which other programs recognize what is predicted, and the schedule."""
    marks = {"v_pred": velocity, "ztsnr": zero_snr}
    for name, applies in marks.items():
        if not applies:
            tensors.pop(name, None)
        elif name != "v_pred" or family != "sd2":  # of SD 2.x they look at other things
            tensors.setdefault(name, torch.zeros(0))


def _prefixed(prefix: str, pairs: list[Pair], network: Part) -> dict[str, Tensor]:
    return {prefix + name: t for name, t in to_original(pairs, network.tensors, network.what).items()}


def _denoiser(parts: Parts, shape: EncoderShape) -> dict[str, Tensor]:
    unet = parts.unet
    tensors = _prefixed(UNET, unet_pairs(shape, unet.tensors), unet)
    implied = default_settings(UNet2DConditionModel) | shape.unet_config(unet.tensors["conv_out.weight"].shape[0])
    _check_settings(unet, implied, len(shape.channels))
    usual = family_settings(shape.family)["scheduler"]
    for name in NOISE:
        expected = usual.get(name)
        if parts.scheduler.get(name, expected) != expected:
            raise TetherError(_cannot_store("the noise schedule", name, parts.scheduler[name], expected))
    return tensors


def _autoencoder(parts: Parts, shape: EncoderShape) -> dict[str, Tensor]:
    vae = parts.vae
    levels = len(_spelled_out(vae)["block_out_channels"])
    tensors = _prefixed(VAE, vae_pairs(levels, vae.tensors), vae)
    try:
        implied = default_settings(AutoencoderKL) | vae_config(tensors, VAE) | family_settings(shape.family)["vae"]
    except TetherError as error:
        raise TetherError(f"{vae.what} cannot be stored in the original layout: {error}") from None
    _check_settings(vae, implied, levels)
    return tensors


def _check_settings(part: Part, implied: Mapping[str, Any], levels: int) -> None:
    """Checks that all settings of a network are those that a reader of the original layout assumes.

    Raises:
        TetherError: naming the setting.
    """
    implied = {name: value for name, value in implied.items() if name not in FREE and not name.startswith("_")}
    differing = differing_settings(_spelled_out(part), implied, levels)
    name = next(iter(differing), None)
    if name is not None:
        raise TetherError(_cannot_store(part.what, name, differing[name], implied[name]))


def _spelled_out(part: Part) -> Mapping[str, Any]:
    """A network's config with the settings that its file leaves out."""
    network: Any = part.network
    return network.config


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
        _check_text(encoder, activation)
    first, *second = encoders
    if second:
        return {
            "conditioner.embedders.0.transformer.": (clip_pairs(first.tensors), first),
            "conditioner.embedders.1.model.": (_open_clip_pairs(second[0], projection=True), second[0]),
        }
    if shape.family == "sd2":
        if first.config["num_hidden_layers"] == LAST_OF_SD2:
            raise TetherError(_cannot_store(first.what, "num_hidden_layers", LAST_OF_SD2, LAST_OF_SD2 - 1))
        return {"cond_stage_model.model.": (_open_clip_pairs(first, projection=False), first)}
    return {"cond_stage_model.transformer.": (clip_pairs(first.tensors), first)}


def _check_text(encoder: Part, activation: str) -> None:
    """Checks that a reader of the original layout opens this text encoder, as the same.

    Raises:
        TetherError: if it has other settings, or words of its own.
    """
    try:
        implied = text_config(encoder.tensors, activation)
    except TetherError as error:
        raise TetherError(f"{encoder.what} cannot be stored in the original layout: {error}") from None
    given = _spelled_out(encoder)
    for name in OF_TEXT:
        if getattr(given, name) != implied[name]:
            kind = "CLIP" if activation == CLIP else "OpenCLIP"
            raise TetherError(
                f"{_cannot_store(encoder.what, name, getattr(given, name), implied[name])}: this base needs {kind} as "
                "text encoder"
            )


def _open_clip_pairs(encoder: Part, projection: bool) -> list[Pair]:
    return open_clip_pairs(encoder.config["num_hidden_layers"], projection)


def _sampling(parts: Parts, family: str, velocity: bool) -> dict[str, Any]:
    """How a base is sampled, where that is not what a reader of its file assumes."""
    usual = family_settings(family)
    if family == "sd2" and velocity:
        usual["unet"]["sample_size"] = 96
    differing = differing_sampling(parts.scheduler, parts.index, parts.unet.config, usual)
    if differing and family == "sd2":
        differing["sample_size"] = parts.unet.config.get("sample_size")  # the usual one depends on the prediction type
    return differing
