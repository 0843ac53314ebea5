"""Models of a request that were moved since it was drawn: found again by their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.errors import TetherError
from tether.files.fingerprint import find_model, fingerprint, named_alike
from tether.files.paths import local_path, name_on_hub
from tether.kinds import find_kind
from tether.sampling.request import Request, parse_lora
from tether.weights import SHIPPED_BASE, shipped_control, split_kind

__all__ = ["find_moved", "fingerprint_of", "fingerprints"]


TABLES = {"base": "bases", "autoencoder": "vaes", "LoRA": "loras", "embedding": "embeddings", "control": "controls"}
"""Word for a model -> the table that `Session(locate=...)` is asked for."""


def fingerprints(request: Request, locate: Callable[[str, str], str]) -> dict[str, str]:
    """The fingerprint of each model of a request that is a file or a folder here, by its reference.

    Args:
        request: the request.
        locate: see `tether.sampling.Session`.
    """
    found = {ref: fingerprint_of(what, ref, locate) for ref, what in _references(request).items()}
    return {ref: text for ref, text in found.items() if text is not None}


def fingerprint_of(what: str, ref: str, locate: Callable[[str, str], str]) -> str | None:
    """The fingerprint of one model; None for what ships, or is no file or folder here.

    Args:
        what: a word of `TABLES`.
        ref: of the request; that of a control may name a kind.
        locate: see `tether.sampling.Session`.
    """
    if (what == "base" and ref == SHIPPED_BASE) or (what == "control" and _ships(ref)):
        return None
    path = local_path(locate(TABLES[what], split_kind(ref)[0] if what == "control" else ref))
    return None if path is None else fingerprint(path)


def find_moved(request: Request, places: Sequence[Path], notify: Callable[[str], None]) -> Request:
    """A request whose models are where they are now; without fingerprints if one is elsewhere or has changed.

    Args:
        request: its models may be gone from their paths, or others may be there now.
        places: folders to search, with those below them, in this order.
        notify: called with a line about each model that is elsewhere.

    Raises:
        TetherError: when a model is nowhere, or several have its name and there is no fingerprint.
    """
    moved: dict[str, str] = {}
    changed = False
    for ref, what in _references(request).items():
        wanted, here = request.fingerprints.get(ref), local_path(ref)
        if here is not None and wanted in (None, fingerprint(here)):
            continue
        if here is None and wanted is None and _is_name(ref, what):
            continue
        found = _found(ref, what, wanted, places)
        if found is not None:
            moved[ref] = str(found)
            notify(f"the {what} {ref} is taken from {found}")
        elif here is not None:
            changed = True
            notify(f"the {what} {ref} has changed since the image was drawn")
        else:
            raise TetherError(_nowhere(ref, what, wanted, places))
    return _with_references(request, moved) if moved or changed else request


def _found(ref: str, what: str, wanted: str | None, places: Sequence[Path]) -> Path | None:
    if wanted is not None:
        return find_model(wanted, places)
    alike = named_alike(Path(ref).name, places)
    if len(alike) > 1:
        raise TetherError(
            f"the {what} {ref} is not there, and several have its name: {alike[0]}, {alike[1]}; say which folder, with "
            "--models DIR"
        )
    return alike[0] if alike else None


def _nowhere(ref: str, what: str, wanted: str | None, places: Sequence[Path]) -> str:
    told = "no file of its name" if wanted is None else "its content is nowhere"
    searched = ", ".join(str(place) for place in places)
    how = "--base FILE, or its folder with --models DIR" if what == "base" else "its folder with --models DIR"
    return f"the {what} {ref} is not there, and {told} in {searched}: give {how}"


def _is_name(ref: str, what: str) -> bool:
    """Whether a reference may be a name on the hub."""
    try:
        name_on_hub(ref, what)
    except TetherError:
        return False
    return True


def _references(request: Request) -> dict[str, str]:
    """What a request opens besides what ships, with a word for it."""
    found = {} if request.base == SHIPPED_BASE else {request.base: "base"}
    found |= {} if request.vae is None else {request.vae: "autoencoder"}
    found |= {parse_lora(text)[0]: "LoRA" for text in request.loras}
    found |= dict.fromkeys(request.embeddings, "embedding")
    return found | {split_kind(entry.ref)[0]: "control" for entry in request.controls if not _ships(entry.ref)}


def _ships(control: str) -> bool:
    """Whether a reference to a control is one to what ships: "depth", "union:depth", "segmentation"."""
    return any(shipped_control(name) is not None for name in (control, find_kind(control).name))


def _with_references(request: Request, moved: Mapping[str, str]) -> Request:
    """A request with other references, and without fingerprints."""

    def lora(text: str) -> str:
        ref, _ = parse_lora(text)
        return moved.get(ref, ref) + text[len(ref) :]

    def control(text: str) -> str:
        ref, kind = split_kind(text)
        return moved.get(ref, ref) + ("" if kind is None else f":{kind}")

    changes: dict[str, Any] = {
        "base": moved.get(request.base, request.base),
        "vae": request.vae and moved.get(request.vae, request.vae),
        "loras": [lora(text) for text in request.loras],
        "embeddings": [moved.get(ref, ref) for ref in request.embeddings],
        "controls": [entry.model_copy(update={"ref": control(entry.ref)}) for entry in request.controls],
        "fingerprints": {},
    }
    return request.model_copy(update=changes)
