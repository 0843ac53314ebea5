"""Opens a base: the one that ships in the package, or a diffusers-format folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tether.base.base import Base
from tether.errors import TetherError
from tether.weights import shipped

__all__ = ["load_base"]

SHIPPED = "tether"


def load_base(
    ref: str | Path = SHIPPED, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Base:
    """Opens a base, locked and ready for inference.

    Args:
        ref: "tether" for the base that ships in the package, or the path of a diffusers-format folder.
        dtype: what the weights are cast to.
        device: where they are put.

    Raises:
        TetherError: where there is nothing at `ref`, or not a base.
    """
    folder = shipped("base") if str(ref) == SHIPPED else Path(ref)
    family = "bundled" if str(ref) == SHIPPED else "custom"
    return _from_folder(folder, family, dtype).to(device)


def _from_folder(folder: Path, family: str, dtype: torch.dtype) -> Base:
    if not folder.is_dir():
        raise TetherError(f"no base at {folder}: expected a diffusers-format folder, or 'tether' for the shipped one")
    index = _read_json(folder / "model_index.json")
    missing = [part for part in ("unet", "vae", "text_encoder", "tokenizer") if not (folder / part).is_dir()]
    if missing:
        raise TetherError(f"{folder} is no whole base: it has no folder {', '.join(missing)}")
    options: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        text = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
        second = "text_encoder_2" in index and (folder / "text_encoder_2").is_dir()
        return Base(
            unet=UNet2DConditionModel.from_pretrained(folder / "unet", **options),
            vae=AutoencoderKL.from_pretrained(folder / "vae", **options),
            text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", **text),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder_2=(
                CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", **text) if second else None
            ),
            tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2") if second else None,
            noise_schedule=_read_json(folder / "scheduler" / "scheduler_config.json"),
            name=SHIPPED if family == "bundled" else folder.name,
            family=family,
            zero_empty_negative=bool(index.get("force_zeros_for_empty_prompt", False)),
            source=folder,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise TetherError(f"{folder} does not open as a base: {line}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise TetherError(f"{path.parent} is no diffusers-format base: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise TetherError(f"{path} cannot be read as JSON: {error}") from None
