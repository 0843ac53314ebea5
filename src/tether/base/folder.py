"""Opens a base from a folder in the diffusers layout, of any version.

    model_index.json    unet/  vae/  text_encoder/  tokenizer/  scheduler/    (text_encoder_2/, tokenizer_2/ for SDXL)

Weights are read from safetensors (one file, or shards and an index) if there are any, or else from PyTorch's files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tether.base.noise import noise_process
from tether.base.parts import Part, Parts
from tether.base.tokenizer import own_clip_tokenizer, own_tokenizer
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import ORIGINAL_ONLY, is_base_folder, read_json, weights_of_folder, what_opens
from tether.formats.clip_vocabulary import clip_tokenizer
from tether.formats.families import describe, family_of_config, family_settings
from tether.formats.strays import check_marks, left_out_words
from tether.formats.text import text_names
from tether.formats.vae import modern_names

__all__ = ["part_of_folder", "parts_of_folder"]

CLIP_END = 49407
"""CLIP's end-of-text token."""


def part_of_folder(folder: Path, *, light: bool = False) -> Part:
    """One network from its folder; `light` as in `parts_of_folder`.

    Raises:
        TetherError: if its config or weights are missing or damaged.
    """
    config = read_json(folder / "config.json")
    tensors = weights_of_folder(folder).tensors
    if config.get("_class_name") == "AutoencoderKL":
        if any(config.get(name) is not None for name in ("latents_mean", "latents_std")):
            raise TetherError(f"{folder} scales each channel of the latents (latents_mean, latents_std): not supported")
        tensors = modern_names(tensors)
    elif "_class_name" not in config:
        tensors = text_names(tensors)
        if config.get("eos_token_id") == 2 and config.get("vocab_size") == CLIP_END + 1:
            # Old files have 2, with which transformers takes the largest token for the end: an added word would be it.
            config["eos_token_id"] = CLIP_END
    return Part(config, tensors, str(folder), light)


def parts_of_folder(
    folder: Path, *, vae: Part | None = None, prediction_type: str | None = None, light: bool = False
) -> Parts:
    """The networks of a base's folder.

    Args:
        folder: the folder.
        vae: an autoencoder to use instead of its own.
        prediction_type: what its denoiser predicts, to override the scheduler's config.
        light: text encoders and tokenizers of Tether's own, where it has them: the same states, and transformers is not
            imported.

    Raises:
        TetherError: if a part is missing or damaged.
    """
    if not folder.is_dir():
        raise TetherError(f"no base at {folder}: expected a diffusers-format folder, or 'tether' for the shipped one")
    if not is_base_folder(folder):
        raise TetherError(f"{folder} has no model_index.json, so it is not a base: {what_opens(folder)}")
    index = read_json(folder / "model_index.json")
    missing = [part for part in ("unet", "vae", "text_encoder") if not (folder / part).is_dir()]
    if missing and (missing != ["vae"] or vae is None):
        raise TetherError(f"{folder} is not a complete base: it has no folder {', '.join(missing)}")
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    if prediction_type is not None:
        schedule["prediction_type"] = prediction_type
    try:
        noise_process(schedule)
    except TetherError as error:
        raise TetherError(f"cannot open {folder}: {error}") from None
    second = isinstance(index.get("text_encoder_2"), list) and (folder / "text_encoder_2").is_dir()
    unet = part_of_folder(folder / "unet")
    is_given = vae is not None
    if vae is None:
        vae = part_of_folder(folder / "vae")
    family = family_of_config(unet.config)
    if is_given and "scaling_factor" not in vae.config:
        own = read_json(folder / "vae" / "config.json") if (folder / "vae" / "config.json").is_file() else {}
        usual = 0.18215 if family == "custom" else family_settings(family)["vae"].get("scaling_factor", 0.18215)
        # A new part, because the checked one has already made its network without the scale.
        vae = replace(vae, config=vae.config | {"scaling_factor": own.get("scaling_factor", usual)})
    unet.config |= {"sample_size": _sample_size(unet.config)}
    original_only = folder / ORIGINAL_ONLY
    family = family if second or family != "sdxl" else "custom"
    parts = Parts(
        family=family,
        words=describe(family, unet.config.get("cross_attention_dim")),
        unet=unet,
        vae=vae,
        text_encoder=part_of_folder(folder / "text_encoder", light=light),
        text_encoder_2=part_of_folder(folder / "text_encoder_2", light=light) if second else None,
        tokenizer=_tokenizer(folder / "tokenizer", "!" if family == "sd2" else "<|endoftext|>", light),
        tokenizer_2=_tokenizer(folder / "tokenizer_2", "!", light) if second else None,
        scheduler=schedule,
        index=index,
        original_only=open_checkpoint(original_only).tensors if original_only.is_file() else {},
    )
    for name, part in parts.networks().items():
        check_marks(part.tensors, part.what)
        if strays := part.leave_out_strays():
            parts.notes.append(f"{left_out_words(strays)}, in {name}")
    return parts


def _sample_size(unet: dict[str, Any]) -> Any:
    """The side of the latents in training. SD 1.x folders of diffusers before 0.9 have 32, and mean 64."""
    size, written = unet.get("sample_size"), re.match(r"0\.(\d+)", str(unet.get("_diffusers_version", "")))
    old = written is not None and int(written[1]) < 9 and unet.get("cross_attention_dim") == 768
    return 64 if old and isinstance(size, int) and size < 64 else size


def _tokenizer(folder: Path, pad_token: str, light: bool) -> Any:
    """The folder's tokenizer; CLIP's if there is no folder."""
    if not folder.is_dir():
        return own_clip_tokenizer(pad_token) if light else clip_tokenizer(pad_token)
    if light and (own := own_tokenizer(folder)) is not None:
        return own
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        line = re.split(r"[\r\n]", str(error).strip())[0]
        raise TetherError(f"cannot open the tokenizer in {folder}: {line[:160]}") from None
