"""Session: requests in, images with metadata out. Command line and servers are thin over it.

    session = Session()
    for drawn in session.run(Request(prompt="a red apple", controls=[{"ref": "canny", "photo": photo}])):
        save_png(drawn.image, path, drawn.metadata)

`run` is `prepare` and `draw`; what was prepared once can be drawn with several prompts. A session keeps the bases and
controls that were used last, and one engine of a name. It serves one call at a time: those of other threads wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

from PIL import Image

from tether.errors import TetherError
from tether.files.versions import version_of
from tether.images import fit, to_rgb
from tether.images.read import MAX_TEXT
from tether.kinds import annotatable, fit_map, prepare
from tether.kinds.polarity import from_paper, inverted, is_dark_on_light
from tether.sampling.checks import check_mask, check_size
from tether.sampling.engines import Engine, engine, resolved
from tether.sampling.loop import Step
from tether.sampling.moved import fingerprints
from tether.sampling.opening import BaseKey, Opener, check_device
from tether.sampling.parameters import PARAMETERS_KEY, parameters_text
from tether.sampling.pipeline import Pipeline
from tether.sampling.request import METADATA_KEY, ControlRequest, Request
from tether.sampling.steps import spacing_of
from tether.sampling.together import as_one, guidance_together

__all__ = ["Cancelled", "Drawn", "Session", "one_at_a_time"]

PACKAGES = ("tether-control", "torch", "diffusers")
"""The packages that the bytes of an image depend on."""


class Cancelled(TetherError):
    """A run was cancelled between two steps."""


@dataclass(frozen=True)
class Drawn:
    """One image of a run.

    Attributes:
        image: RGB.
        seed: the seed of the image.
        metadata: PNG text from which `tether generate --again` repeats the image.
    """

    image: Image.Image
    seed: int
    metadata: dict[str, str]


class Session:
    """Runs requests.

    Args:
        bases: how many opened bases to keep, each with its controls. A base with LoRA or embeddings counts as one of
            its own; it shares the weights that it did not change.
        notify: called with a line about each base and embedding that was opened, and about what has no effect in a
            request that is run, for people.
        locate: (table, name) -> what is opened for a name in a request; the tables are "bases", "vaes", "controls",
            "loras" and "embeddings". By default the name itself. A server opens by it what its operator offers, and
            its images carry the names.
    """

    def __init__(
        self,
        *,
        bases: int = 2,
        notify: Callable[[str], None] = lambda line: None,
        locate: Callable[[str, str], str] = lambda table, name: name,
    ) -> None:
        self._notify = notify
        self._opener = Opener(bases, notify, locate)
        self._engines: dict[str, Engine] = {}
        self._lock = RLock()

    def prepare(self, request: Request) -> Request:
        """A request that needs no other image: photos are annotated, everything is fitted to the size.

        The size of the base, and the kind of a control that has a photo, come from the opened base and control.

        Raises:
            TetherError: when the request cannot be drawn.
        """
        check_device(request.device)
        for entry in request.controls:
            if entry.kind is not None:
                annotatable(entry.kind, entry.annotator)
        with self._lock:
            return self._prepared(request)

    def _prepared(self, request: Request) -> Request:
        base = self._opener.base(BaseKey.of(request))
        size = request.size or (base.sample_size, base.sample_size)
        check_size(base, size)  # before any image of that size is made
        line = check_mask(request, size)
        if line is not None:
            self._notify(line)
        images = {"init": request.init and to_rgb(request.init), "mask": request.mask}
        fitted = {name: image and fit(image, *size, request.fit) for name, image in images.items()}
        controls = [self._with_condition(entry, request, size) for entry in request.controls]
        drawn_with = {
            "versions": request.versions or {name: version_of(name) for name in PACKAGES},
            "fingerprints": request.fingerprints or fingerprints(request, self._opener.locate),
            "spacing": spacing_of(request, base),
            "engine": resolved(request.engine, request.device),
        }
        prepared = request.model_copy(update={**fitted, **drawn_with, "size": size, "controls": controls})
        _check_text(prepared)
        return prepared

    def open(self, request: Request) -> Pipeline:
        """The pipeline of a request, from kept bases and controls where they are kept.

        Raises:
            TetherError: when base, control, LoRA or embedding cannot be opened, or do not go together.
        """
        check_device(request.device)
        key = BaseKey.of(request)
        with self._lock:
            base = self._opener.base(key)
            controls = [self._opener.control(entry.ref, key) for entry in request.controls]
            name = resolved(request.engine, request.device)
            if name not in self._engines:
                self._engines[name] = engine(name)
            return Pipeline(base, controls, engine=self._engines[name], notify=_once(self._notify))

    def run(
        self,
        request: Request,
        *,
        on_step: Callable[[Step], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Drawn]:
        """Prepares a request and generates its images; arguments and errors as of `draw`."""
        with self._lock:
            _stop_if(cancel)
            return self.draw(self.prepare(request), on_step=on_step, cancel=cancel)

    def draw(
        self,
        request: Request,
        *,
        on_step: Callable[[Step], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Drawn]:
        """Generates the images of a prepared request; with `low_memory`, one at a time.

        Args:
            request: what `prepare` gave, with the same prompt or another.
            on_step: called after each step.
            cancel: asked before the first step and after each; True ends the run.

        Raises:
            Cancelled: when `cancel` gives True.
            TetherError: when the request cannot be drawn.
        """
        with self._lock:
            _stop_if(cancel)
            pipeline, listening = self.open(request), _listening(on_step, cancel)
            return [
                _drawn(image, part, index)
                for part in one_at_a_time(request)
                for index, image in enumerate(pipeline.run(part, listening))
            ]

    def draw_together(
        self,
        requests: Sequence[Request],
        *,
        on_step: Callable[[Step], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[list[Drawn]] | None:
        """Generates the images of several prepared requests as one batch; an image may differ by one level of 255 from
        the one that its request gives alone.

        Args:
            requests: prepared, with one `tether.sampling.together.alike` that is not "".
            on_step: called after each step, with the images of all requests in their order.
            cancel: as of `draw`.

        Returns:
            The images of each request; None when the prompts have different lengths: draw them one by one.

        Raises:
            Cancelled, TetherError: as `draw`.
        """
        with self._lock:
            _stop_if(cancel)
            pipeline = self.open(requests[0])
            base = pipeline.base
            guidance = guidance_together(requests, base, requests[0].size or (base.sample_size, base.sample_size))
            if guidance is None:
                return None
            images = iter(pipeline.run(as_one(requests), _listening(on_step, cancel), guidance=guidance))
            return [[_drawn(next(images), one, index) for index in range(one.count)] for one in requests]

    def _upright(self, condition: Image.Image, entry: ControlRequest, kind: str | None) -> Image.Image:
        """A condition map, as a negative if it is one."""
        if entry.invert or (entry.invert is None and is_dark_on_light(condition, kind)):
            if entry.invert is None:
                name = entry.source or "the condition"
                self._notify(f"{name}: dark lines on a light ground are inverted; --no-invert keeps them")
                return from_paper(condition)
            return inverted(condition)
        return condition

    def _with_condition(self, entry: ControlRequest, request: Request, size: tuple[int, int]) -> ControlRequest:
        """The control with its condition at the size, and the photo that it was made from."""
        changes: dict[str, object] = {"mask": entry.mask and fit(entry.mask, *size, request.fit, pad_color=(0, 0, 0))}
        kind = entry.kind or self._opener.control(entry.ref, BaseKey.of(request)).kind
        if entry.condition is not None:
            upright = [self._upright(one, entry, kind) for one in entry.conditions]
            changes |= {"condition": _one_or_all([fit_map(one, kind, size, request.fit) for one in upright])}
            changes |= {"invert": False}
        elif kind is None or entry.photo is None:
            raise TetherError(
                f"control {entry.ref} does not say what its conditions are: annotate the photo first, then use "
                "--condition"
            )
        else:
            how: Any = {"fit": request.fit, "annotator": entry.annotator, "options": entry.options}
            made = [prepare(photo, kind, size, **how) for photo in entry.photos]
            changes |= {"photo": _one_or_all([one.photo for one in made])}
            changes |= {"condition": _one_or_all([one.condition for one in made])}
        return entry.model_copy(update=changes)


def _stop_if(cancel: Callable[[], bool] | None) -> None:
    """Raises `Cancelled` when a run is to end."""
    if cancel is not None and cancel():
        raise Cancelled("cancelled")


def _listening(
    on_step: Callable[[Step], None] | None, cancel: Callable[[], bool] | None
) -> Callable[[Step], None] | None:
    """What is called after each step; None for nothing."""

    def after_step(step: Step) -> None:
        _stop_if(cancel)
        if on_step is not None:
            on_step(step)

    return None if cancel is None and on_step is None else after_step


def _drawn(image: Image.Image, request: Request, index: int) -> Drawn:
    """An image of a request with what it carries."""
    text = request.metadata(index) | {PARAMETERS_KEY: parameters_text(request, index)}
    return Drawn(image, request.seeds[index], text)


def _one_or_all(images: list[Image.Image]) -> Image.Image | list[Image.Image]:
    return images if len(images) > 1 else images[0]


def _once(notify: Callable[[str], None]) -> Callable[[str], None]:
    """`notify` that leaves out lines which it was called with before."""
    said: set[str] = set()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            notify(line)

    return once


def one_at_a_time(request: Request) -> list[Request]:
    """With `low_memory`, the images of a request as requests of their own; else the request."""
    if not request.low_memory or request.count == 1:
        return [request]
    return [request.for_image(index) for index in range(request.count)]


def _check_text(request: Request) -> None:
    """Refuses a request whose images would be drawn and could not be written: each carries all maps of the batch.

    Raises:
        TetherError: when its text is longer than a PNG's may be.
    """
    maps = sum(len(entry.conditions) for entry in request.controls) + (request.init is not None)
    width, height = request.size or (0, 0)
    if 6 * maps * width * height <= MAX_TEXT:  # it is shorter: base64 of a PNG has some 4 bytes a pixel
        return
    length = len(request.metadata(0)[METADATA_KEY].encode())
    if length > MAX_TEXT:
        raise TetherError(
            f"the request of {request.count} images would take {length:,} bytes in each of them, and {MAX_TEXT:,} is "
            "the limit: draw them one by one, from a folder (--control KIND=FOLDER --out FOLDER)"
        )
