"""A folder in the diffusers layout: its JSON files, and the weights of one network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint, open_shards
from tether.files.paths import SUFFIXES

__all__ = [
    "FAMILY",
    "NOTES",
    "ORIGINAL_ONLY",
    "STEMS",
    "are_settings_of",
    "is_base_folder",
    "is_control_config",
    "read_json",
    "weights_of_folder",
    "what_opens",
]

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""What the names of a network's weights begin with."""
NOTES = "tether.json"
"""A file of a control's folder: the kind of its condition images, and the recommended sides."""
ORIGINAL_ONLY = "released_only.safetensors"
"""A file of a base's folder: tensors that only the original layout has and no network uses, so that converting back
loses nothing."""
TRAINER_STATE = re.compile(r"training_args|optimizer.*|scheduler.*|scaler.*|random_states.*|rng_state.*")
"""Stems of files that trainers write beside the weights."""
FAMILY = "tether_family"
"""Key of a control's config.json: its family; diffusers' own have none."""
MAX_JSON = 4 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        TetherError: if it is missing, damaged, or larger than 4 MiB.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise TetherError(f"{path} has {path.stat().st_size:,} bytes: it exceeds the 4 MiB limit")
        content = json.loads(path.read_text())
    except FileNotFoundError:
        below = [*path.parent.glob(f"*/{path.name}"), *path.parent.glob(f"checkpoint*/*/{path.name}")]
        meant = f"; did you mean {below[0].parent}?" if below else ""
        raise TetherError(f"{path.parent} has no {path.name}: it is not a complete diffusers folder{meant}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TetherError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise TetherError(f"{path} is not valid: expected a JSON object")
    return content


def is_base_folder(folder: Path) -> bool:
    """Whether this is the folder of a base."""
    return (folder / "model_index.json").is_file()


def is_control_config(config: Mapping[str, Any]) -> bool:
    """Whether this is the content of a control's config.json: of a ControlNet, a union, or another family."""
    if isinstance(config.get(FAMILY), str):
        return True
    if config.get("_class_name") is None:  # as some write it by hand
        return "cross_attention_dim" in config or "conditioning_channels" in config
    return str(config["_class_name"]).startswith(("ControlNet", "UnionControlNet"))


def are_settings_of(weights: Path, stems: tuple[str, ...]) -> bool:
    """Whether the settings in a folder are those of one file of weights in it.

    Args:
        weights: the file.
        stems: what its name begins with if they are; a file of another name has to be the only one of weights there.
    """
    if weights.name.startswith(stems):
        return True
    files = (file for file in weights.parent.iterdir() if file.suffix in SUFFIXES)
    return all(file.name == weights.name or TRAINER_STATE.fullmatch(file.stem) for file in files)


def what_opens(folder: Path) -> str:
    """Advice about a folder that is neither a base nor a control: what in it or around it opens, for messages."""
    inside = sorted(path.parent for path in folder.glob("*/model_index.json"))
    if inside:
        return f"a base is in it: {inside[0]}"
    if is_base_folder(folder.parent):
        return f"it is a part of {folder.parent}: give that"
    if (folder / "config.json").is_file() and is_control_config(read_json(folder / "config.json")):
        return "it is a control, for --control"
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file())
    if files:
        return f"give one of its files: {', '.join(path.name for path in files[:3])}{', ...' if len(files) > 3 else ''}"
    return "give a diffusers folder or a file of weights"


def weights_of_folder(folder: Path) -> Checkpoint:
    """The weights of one network's folder.

    Raises:
        TetherError: if they are missing or damaged.
    """
    for stem in STEMS:
        for variant in ("", ".fp16", ".bf16"):
            if (file := folder / f"{stem}{variant}.safetensors").is_file():
                return open_checkpoint(file)
            if (index := folder / f"{stem}.safetensors.index{variant}.json").is_file():
                return open_shards(index)
    for stem in STEMS:
        for variant in ("", ".fp16", ".bf16"):
            if (file := folder / f"{stem}{variant}.bin").is_file():
                return open_checkpoint(file)
            if (index := folder / f"{stem}.bin.index{variant}.json").is_file():
                return open_shards(index)
    raise TetherError(f"{folder} has no weights: expected {STEMS[0]}.safetensors or {STEMS[1]}.safetensors")
