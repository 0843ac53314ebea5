"""A base from a folder in diffusers' layout, of any age.

    model_index.json    unet/  vae/  text_encoder/  tokenizer/  scheduler/    (text_encoder_2/, tokenizer_2/ for SDXL)

Weights are taken from safetensors where there are any (one file, or shards and an index), else from PyTorch's files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from tether.base.parts import Part, Parts
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import read_json, weights_of_folder
from tether.formats.clip_vocabulary import clip_tokenizer
from tether.formats.recognize import FAMILY_WORDS
from tether.formats.vae import modern_names

__all__ = ["RELEASED_ONLY", "part_of_folder", "parts_of_folder"]

RELEASED_ONLY = "released_only.safetensors"
"""Beside the networks: tensors of the released layout that nothing uses, so that converting back loses nothing."""

CLIP_END = 49407
"""CLIP's token for the end of a text."""


def part_of_folder(folder: Path) -> Part:
    """One network from its folder.

    Raises:
        TetherError: where settings or weights are missing or damaged.
    """
    config = read_json(folder / "config.json")
    tensors = weights_of_folder(folder).tensors
    if config.get("_class_name") == "AutoencoderKL":
        tensors = modern_names(tensors)
    elif "_class_name" not in config:
        tensors = _text_names(tensors)
        if config.get("eos_token_id") == 2 and config.get("vocab_size") == CLIP_END + 1:
            # What old files say. transformers then takes the largest token for the end, which an added word is.
            config["eos_token_id"] = CLIP_END
    return Part(config, tensors, str(folder))


def _text_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP's tensors under the names that the field knows, whichever transformers wrote them."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        plain = name.startswith(("text_model.", "text_projection."))
        found[name if plain else f"text_model.{name}"] = tensor
    return found


def parts_of_folder(folder: Path, *, vae: Part | None = None, prediction_type: str | None = None) -> Parts:
    """The networks of a base's folder.

    Args:
        folder: the folder.
        vae: an autoencoder to use in place of its own.
        prediction_type: what its denoiser predicts, where its scheduler's settings are wrong about that.

    Raises:
        TetherError: where a part is missing or damaged.
    """
    if not folder.is_dir():
        raise TetherError(f"no base at {folder}: expected a diffusers-format folder, or 'tether' for the shipped one")
    index = read_json(folder / "model_index.json")
    missing = [part for part in ("unet", "vae", "text_encoder") if not (folder / part).is_dir()]
    if missing and (missing != ["vae"] or vae is None):
        raise TetherError(f"{folder} is no whole base: it has no folder {', '.join(missing)}")
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    if prediction_type is not None:
        schedule["prediction_type"] = prediction_type
    second = isinstance(index.get("text_encoder_2"), list) and (folder / "text_encoder_2").is_dir()
    unet = part_of_folder(folder / "unet")
    if vae is None:
        vae = part_of_folder(folder / "vae")
    elif "scaling_factor" not in vae.config and (folder / "vae" / "config.json").is_file():
        own = read_json(folder / "vae" / "config.json")
        # A new part: the one that was checked has made its network, without the scale.
        vae = replace(vae, config=vae.config | {"scaling_factor": own.get("scaling_factor", 0.18215)})
    unet.config |= {"sample_size": _sample_size(unet.config)}
    released_only = folder / RELEASED_ONLY
    family = _family(unet.config, second)
    return Parts(
        family=family,
        words=f"{FAMILY_WORDS[family]} ({unet.config.get('cross_attention_dim')}-wide text states)",
        unet=unet,
        vae=vae,
        text_encoder=part_of_folder(folder / "text_encoder"),
        text_encoder_2=part_of_folder(folder / "text_encoder_2") if second else None,
        tokenizer=_tokenizer(folder / "tokenizer", "!" if family == "sd2" else "<|endoftext|>"),
        tokenizer_2=_tokenizer(folder / "tokenizer_2", "!") if second else None,
        scheduler=schedule,
        index=index,
        released_only=open_checkpoint(released_only).tensors if released_only.is_file() else {},
    )


def _sample_size(unet: dict[str, Any]) -> Any:
    """The latents' side that a denoiser was trained on: SD 1.x of a diffusers before 0.9 says 32, and means 64."""
    size, written = unet.get("sample_size"), re.match(r"0\.(\d+)", str(unet.get("_diffusers_version", "")))
    old = written is not None and int(written[1]) < 9 and unet.get("cross_attention_dim") == 768
    return 64 if old and isinstance(size, int) and size < 64 else size


def _family(unet: dict[str, Any], second: bool) -> str:
    """Which family a denoiser's settings are those of."""
    width = unet.get("cross_attention_dim")
    if second and unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    return {768: "sd1", 1024: "sd2"}.get(width if isinstance(width, int) else 0, "custom")


def _tokenizer(folder: Path, pad_token: str) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; CLIP's own where it has none."""
    if not folder.is_dir():
        return clip_tokenizer(pad_token)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        line = re.split(r"[\r\n]", str(error).strip())[0]
        raise TetherError(f"{folder} holds no tokenizer that opens: {line[:160]}") from None
