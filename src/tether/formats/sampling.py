"""How a base is sampled, which its tensors do not show: kept in the metadata of a file in the original layout.

A reader of that layout assumes the settings of the family. Those that differ are one JSON object under `SAMPLING`;
null is a setting that the base does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tether.errors import TetherError

__all__ = ["FORMER_SPACING", "SAMPLING", "differing_sampling", "with_sampling"]

SAMPLING = "tether.sampling"
"""Key of a file's metadata."""
FORMER_SPACING = "former_timestep_spacing"
"""In a schedule and in `family_settings`: the spacing that files of the family were sampled with by versions that wrote
none into a request."""
_SCHEDULE = ("timestep_spacing", "steps_offset", "set_alpha_to_one")
_INDEX = ("force_zeros_for_empty_prompt",)
_UNET = ("sample_size",)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "timestep_spacing": str,
    "steps_offset": int,
    "set_alpha_to_one": bool,
    "force_zeros_for_empty_prompt": bool,
    "sample_size": int,
}

Settings = dict[str, Any]


def differing_sampling(
    schedule: Mapping[str, Any], index: Mapping[str, Any], unet: Mapping[str, Any], assumed: Mapping[str, Any]
) -> Settings:
    """The settings of a base that a reader of its file would not assume.

    Args:
        schedule, index, unet: its `scheduler_config.json`, `model_index.json` and `unet/config.json`.
        assumed: `family_settings` of its family.
    """
    groups = (
        (schedule, assumed["scheduler"], _SCHEDULE),
        (index, assumed["index"], _INDEX),
        (unet, assumed["unet"], _UNET),
    )
    return {
        name: given.get(name)
        for given, usual, names in groups
        for name in names
        if given.get(name) != usual.get(name) and isinstance(given.get(name), (_TYPES[name], type(None)))
    }


def with_sampling(settings: Mapping[str, Any], metadata: Mapping[str, str], what: str) -> Settings:
    """`family_settings` with those of a file's metadata.

    Args:
        settings: "scheduler", "index", "unet", ...
        metadata: of the file.
        what: the file's name in messages.

    Raises:
        TetherError: for metadata that is not such an object.
    """
    try:
        found = json.loads(metadata.get(SAMPLING, "{}"))
        valid = all(value is None or type(value) is _TYPES[name] for name, value in found.items())
    except (ValueError, AttributeError, KeyError, RecursionError):
        valid, found = False, {}
    if not valid:
        raise TetherError(f"{what} is damaged: its metadata {SAMPLING} is not a JSON object of settings")
    changed = dict(settings)
    for group, names in (("scheduler", _SCHEDULE), ("index", _INDEX), ("unet", _UNET)):
        kept = {name: value for name, value in settings[group].items() if name not in found}
        changed[group] = kept | {name: found[name] for name in names if found.get(name) is not None}
    if SAMPLING not in metadata and FORMER_SPACING in settings:
        changed["scheduler"][FORMER_SPACING] = settings[FORMER_SPACING]
    return changed
