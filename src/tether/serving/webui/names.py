"""The names of that API: samplers, schedules, resize modes, control modes, modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tether.images import FitRule
from tether.kinds import kinds
from tether.kinds.kind import Annotator
from tether.serving.errors import invalid

__all__ = [
    "CONTROL_MODES",
    "RESIZE_MODES",
    "SAMPLERS",
    "SCHEDULES",
    "Module",
    "choice",
    "find_module",
    "module_table",
    "plain_name",
    "sampler_values",
]

SAMPLERS = {
    "Euler a": "euler-a",
    "Euler": "euler",
    "DPM++ 2M": "dpmpp-2m",
    "UniPC": "unipc",
    "DDIM": "ddim",
    "LCM": "lcm",
}
"""Name there -> name here."""
SCHEDULES = {"automatic": None, "uniform": None, "normal": None, "karras": "karras", "exponential": "exponential"}
"""Name there -> `sigmas` here."""
KARRAS_BY_DEFAULT = ("DPM++ 2M",)
"""Samplers whose automatic schedule there is Karras'."""
RESIZE_MODES: tuple[tuple[str, FitRule], ...] = (
    ("Just Resize", "stretch"),
    ("Crop and Resize", "crop"),
    ("Resize and Fill", "pad"),
)
CONTROL_MODES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Balanced", {}),
    ("My prompt is more important", {"weighting": "soft"}),
    ("ControlNet is more important", {"weighting": "soft", "sides": "conditional"}),
)
"""As the table in `tether.control.injection` says."""
OLD_RESIZE_NAMES = {"inner fit (scale to fit)": 1, "outer fit (shrink to fit)": 2, "scale to fit (inner fit)": 1}
_HASH = re.compile(r" \[[0-9a-fA-F]{6,64}\]$")


def plain_name(name: str) -> str:
    """A model's name without the hash that the web UI appends: "canny [d14c016b]" -> "canny"."""
    return _HASH.sub("", name).strip()


def choice(value: Any, options: tuple[tuple[str, Any], ...], field: str) -> Any:
    """One of some options, by its number or its name in any case.

    Raises:
        Refused: 422.
    """
    if isinstance(value, str):
        wanted = value.strip().casefold()
        for name, option in options:
            if name.casefold() == wanted:
                return option
        value = OLD_RESIZE_NAMES.get(wanted, value)
        value = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,4}", value) else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return options[value][1]
    names = ", ".join(name for name, _ in options)
    raise invalid(field, f"{str(value)[:80]!r} is not supported: choose one of {names}")


def sampler_values(sampler: Any, schedule: Any) -> dict[str, Any]:
    """The fields of a request for a sampler and a schedule; "DPM++ 2M Karras" is both.

    Raises:
        Refused: 422, for those that Tether does not have.
    """
    given = str(sampler or "Euler")
    name, inside = given, None
    for word in ("karras", "exponential"):
        if name.casefold().endswith(f" {word}"):
            name, inside = name[: -len(word) - 1], word
    names = {known.casefold(): known for known in SAMPLERS} | {own: known for known, own in SAMPLERS.items()}
    known = names.get(name.casefold())
    if known is None:
        raise invalid("sampler_name", f"there is no sampler {given[:80]!r}: choose one of {', '.join(SAMPLERS)}")
    wanted = str(schedule or "automatic").casefold()
    if wanted not in SCHEDULES:
        raise invalid("scheduler", f"{wanted[:80]!r} is not supported: choose one of {', '.join(SCHEDULES)}")
    sigmas = SCHEDULES[wanted]
    if wanted == "automatic":
        sigmas = inside or ("karras" if known in KARRAS_BY_DEFAULT else None)
    return {"scheduler": SAMPLERS[known]} | ({} if sigmas is None else {"sigmas": sigmas})


@dataclass(frozen=True)
class Module:
    """A preprocessor.

    Attributes:
        name: its name there.
        kind: of condition; None for a ready map.
        annotator: of the kind; None for a kind whose condition is the image.
        invert: whether it turns a map of dark lines into one of bright lines.
    """

    name: str
    kind: str | None
    annotator: str | None = None
    invert: bool = False

    @property
    def found(self) -> Annotator | None:
        """The annotator."""
        return None if self.kind is None or self.annotator is None else kinds()[self.kind].annotators[self.annotator]

    @property
    def sliders(self) -> list[tuple[str, Any]]:
        """The two options that are `threshold_a` and `threshold_b` there."""
        return [] if self.found is None else list(self.found.options.items())[:2]

    def options(self, values: Iterable[Any]) -> dict[str, float]:
        """The options for `threshold_a` and `threshold_b`; a value that is missing or out of range is the default, as
        in the extension, whose clients always send both."""
        chosen = {}
        for (name, option), value in zip(self.sliders, values, strict=False):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and option.least <= value <= option.most:
                chosen[name] = value
        return chosen


_ALIASES = {"tile_resample": "tile", "inpaint_only": "inpaint", "inpaint_global_harmonious": "inpaint"}


def module_table() -> dict[str, Module]:
    """The preprocessors by name: "canny" is the first annotator of the kind, "scribble_xdog" one of its annotators."""
    table = {"none": Module("none", None)}
    inverted = "invert (from white bg & black line)"
    table[inverted] = Module(inverted, None, invert=True)
    for kind in kinds().values():
        name = kind.name.replace("-", "_")
        if kind.is_image and not kind.annotators:
            table[name] = Module(name, kind.name)
        for number, annotator in enumerate(kind.annotators):
            if number == 0:
                table[name] = Module(name, kind.name, annotator)
            full = f"{name}_{annotator}".replace("-", "_")
            table.setdefault(full, Module(full, kind.name, annotator))
    return table


def find_module(name: Any, field: str) -> Module:
    """A preprocessor by its name.

    Raises:
        Refused: 422, when Tether does not have it.
    """
    table = module_table()
    wanted = str(name or "none").strip().casefold().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    wanted = "invert (from white bg & black line)" if wanted == "invert" else wanted
    if wanted not in table:
        raise invalid(field, f"there is no preprocessor {str(name)[:80]!r}: choose one of {', '.join(table)}")
    return table[wanted]
