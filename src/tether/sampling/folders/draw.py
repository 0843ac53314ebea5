"""The pictures of a folder, one after the other.

What is drawn already from the same request is kept. A picture is written first and its line in the manifest after it:
a run that is stopped in between finds the picture by the request in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from tether.errors import TetherError
from tether.files.atomic import make_folder
from tether.files.hashing import hash_file
from tether.images import open_image, open_map, read_metadata, save_png
from tether.sampling.folders.manifest import Entry, Manifest
from tether.sampling.folders.tasks import Task
from tether.sampling.loop import Step
from tether.sampling.request import METADATA_KEY, ControlRequest, Request
from tether.sampling.session import Cancelled, Drawn, Session

__all__ = ["EMPTY", "Result", "draw_folder"]

_EACH = {"prompt", "seed", "count", "index"}
"""The fields of a request that each picture has for itself."""
EMPTY = Image.new("RGB", (64, 64), (128, 128, 128))
"""What stands in a request for the images of a folder."""


@dataclass(frozen=True)
class Result:
    """What became of one picture.

    Attributes:
        task: what was to be drawn.
        state: "drawn"; "kept", if it was there; or "failed".
        path: of the picture.
        error: why it failed.
        drawn: the picture, if it was drawn now.
    """

    task: Task
    state: Literal["drawn", "kept", "failed"]
    path: Path
    error: str | None = None
    drawn: Drawn | None = None


def draw_folder(
    session: Session,
    request: Request,
    tasks: Sequence[Task],
    out: Path,
    *,
    on_start: Callable[[Task], None] = lambda task: None,
    on_step: Callable[[Step], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Result]:
    """Draws pictures one at a time, and yields what became of each; memory does not grow with their number.

    A picture whose image cannot be read or drawn fails, and the others are drawn. A picture of an older request is
    replaced, if it is as it was written; what the manifest does not know is never replaced.

    Args:
        session: draws.
        request: the settings; the images of its controls, where a task has files for them, are replaced (`EMPTY`).
        tasks: from `list_tasks`.
        out: the folder of the pictures and their manifest.
        on_start: called with each task that is to be drawn.
        on_step: called after each step.
        cancel: asked before the first step of each picture and after each; True ends the run.

    Raises:
        Cancelled: when `cancel` gives True.
        TetherError: when the request itself cannot be drawn, or nothing can be written.
    """
    manifest = Manifest(out)
    prepared = session.prepare(request.model_copy(update={"count": 1, "seed": request.seeds[0]}))
    session.open(prepared)
    same = _digest([request.model_dump_json(exclude=_EACH), prepared.fingerprints])
    for task in tasks:
        path = out / task.output
        before = manifest.entries.get(task.output, Entry(task.input, task.output, "failed"))
        try:
            key = _key(task, same)
            intact = _is_intact(before, path)
            if intact and before.state == "drawn" and before.request == key:
                yield Result(task, "kept", path)
                continue
            on_start(task)
            one = session.prepare(_request(task, request, prepared))
            edited = before.request == key and not intact  # an editor may have left the metadata
            drawn = None if edited else _drawn_before(one, path)
            if drawn is None:
                if path.exists() and not intact:
                    raise TetherError(
                        f"{path} exists, and is not as this manifest has it: move it, or give another --out"
                    )
                (drawn,) = session.draw(one, on_step=on_step, cancel=cancel)
        except Cancelled:
            raise
        except TetherError as error:
            manifest.add(_failure(task, str(error), before))
            yield Result(task, "failed", path, str(error))
            continue
        make_folder(path.parent)
        save_png(drawn.image, path, drawn.metadata)
        manifest.add(Entry(task.input, task.output, "drawn", key, task.seed, task.prompt, hash_file(path)))
        yield Result(task, "drawn", path, drawn=drawn)
    manifest.close()


def _key(task: Task, same: str) -> str:
    """SHA-256 of what a picture is drawn from.

    Args:
        task: the picture.
        same: that of what all pictures share.
    """
    if task.fault is not None:
        raise TetherError(task.fault)
    try:
        files = {str(k): hash_file(path) for k, path in task.files.items()}
    except OSError as error:
        raise TetherError(f"{task.input} cannot be read: {error.strerror}") from None
    return _digest([same, task.prompt, task.seed, files])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _failure(task: Task, error: str, before: Entry) -> Entry:
    """The picture that was drawn before stays known, with its request."""
    return Entry(task.input, task.output, "failed", before.request, task.seed, task.prompt, before.sha256, error)


def _is_intact(entry: Entry, path: Path) -> bool:
    """Whether a picture is there, with the bytes that the manifest has."""
    try:
        return path.is_file() and hash_file(path) == entry.sha256
    except OSError:
        return False


def _request(task: Task, request: Request, prepared: Request) -> Request:
    """The request of one picture, with its images; what they share is prepared."""
    controls = [_control(entry, done, task.files.get(k)) for k, (entry, done) in enumerate(_pairs(request, prepared))]
    update = {"prompt": task.prompt, "seed": task.seed, "controls": controls}
    return prepared.model_copy(update=update)


def _pairs(request: Request, prepared: Request) -> Iterator[tuple[ControlRequest, ControlRequest]]:
    return zip(request.controls, prepared.controls, strict=True)


def _control(entry: ControlRequest, prepared: ControlRequest, file: Path | None) -> ControlRequest:
    if file is None:
        return prepared
    field, opened = ("photo", open_image) if entry.photo is not None else ("condition", open_map)
    source = file.name.encode("utf-8", "replace").decode()
    return entry.model_copy(update={field: opened(file), "source": source})


def _drawn_before(request: Request, path: Path) -> Drawn | None:
    """The picture that a stopped run has written and not noted."""
    with suppress(TetherError):
        text = read_metadata(path)
        if text.get(METADATA_KEY) == request.metadata(0)[METADATA_KEY]:
            return Drawn(open_image(path), request.seeds[0], text)
    return None
