"""A generation request as data: everything a picture was made from, small enough to travel inside its PNG.

Conditions, the picture to start from and the mask are kept as PNGs already fitted to the size, so a request needs no
other file to be run again.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from tether.control import Injection
from tether.errors import TetherError
from tether.images import open_image, read_metadata
from tether.sampling.loop import Step
from tether.sampling.pipeline import Pipeline

__all__ = ["METADATA_KEY", "ControlRequest", "Request", "read_request"]

METADATA_KEY = "tether"


def _picture_in(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return open_image(io.BytesIO(base64.b64decode(value, validate=True)))
    except (binascii.Error, TetherError) as error:
        raise ValueError(f"not a picture: {error}") from None


def _picture_out(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


Picture = Annotated[Image.Image, BeforeValidator(_picture_in), PlainSerializer(_picture_out)]
"""A PIL picture that is a base64 PNG in JSON."""


class ControlRequest(BaseModel):
    """One control of a request.

    Attributes:
        ref: what `ControlNet.load` opens: a shipped kind, a path, a hub id.
        condition: the condition image, fitted to the request's size.
        source: where the condition came from; for people, never opened again.
        strength, weighting, sides, window: see `tether.Injection`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    ref: str
    condition: Picture
    source: str = ""
    strength: float = 1.0
    weighting: str | list[float] = "balanced"
    sides: Literal["both", "conditional"] | float | None = None
    window: tuple[float, float] = (0.0, 1.0)

    def injection(self) -> Injection:
        """The same as an `Injection`; a `TetherError` where a value is out of range."""
        weighting: Any = self.weighting  # a name is checked there
        return Injection(strength=self.strength, weighting=weighting, sides=self.sides, window=self.window)


class Request(BaseModel):
    """A batch of pictures to draw; see `Pipeline.__call__` for what the values mean.

    `prediction_type` is what the base predicts where it is wrong or silent about that.
    `loras` are REF or REF:STRENGTH, `seed` is the first of `count` seeds or a list of them all.
    `low_memory` is whether it was drawn so: in tiles, which are not the same to the byte; `device` where it was drawn.
    `index` is the place, in the batch, of the picture that carries the request: a picture is repeated to the byte by
    drawing its whole batch again, because arithmetic on another batch size rounds differently.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    prompt: str
    negative_prompt: str = ""
    base: str = "tether"
    vae: str | None = None
    loras: list[str] = Field(default_factory=list)
    embeddings: list[str] = Field(default_factory=list)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    clip_skip: int = Field(default=0, ge=0, le=10)
    controls: list[ControlRequest] = Field(default_factory=list)
    seed: int | list[int] = 0
    count: int = Field(default=1, ge=1)
    index: int = Field(default=0, ge=0)
    steps: int = 20
    guidance_scale: float = 5.0
    scheduler: str = "dpmpp-2m"
    size: tuple[int, int] | None = None
    fit: Literal["stretch", "crop", "pad"] = "crop"
    init: Picture | None = None
    strength: float = 0.6
    mask: Picture | None = None
    low_memory: bool = False
    device: str = "cpu"
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_seed_a_picture(self) -> Request:
        if len(self.seeds) != self.count or self.index >= self.count:
            raise ValueError(f"count is {self.count}, with {len(self.seeds)} seeds and index {self.index}")
        return self

    @property
    def seeds(self) -> list[int]:
        """One seed a picture."""
        return [self.seed + k for k in range(self.count)] if isinstance(self.seed, int) else self.seed

    def run(self, pipeline: Pipeline, on_step: Callable[[Step], None] | None = None) -> list[Image.Image]:
        """Draws the batch with a pipeline that holds this request's base and controls."""
        pictures = pipeline(
            self.prompt,
            [control.condition for control in self.controls],
            seed=self.seed,
            count=self.count,
            negative_prompt=self.negative_prompt,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            injections=[control.injection() for control in self.controls],
            size=self.size,
            fit_rule=self.fit,
            init=self.init,
            strength=self.strength,
            mask=self.mask,
            clip_skip=self.clip_skip,
            on_step=on_step,
        )
        assert isinstance(pictures, list)
        return pictures

    def metadata(self, index: int) -> dict[str, str]:
        """PNG text for picture `index` of the batch."""
        return {METADATA_KEY: self.model_copy(update={"index": index}).model_dump_json()}


def read_request(path: Path) -> Request:
    """The request inside a PNG that Tether wrote.

    Raises:
        TetherError: when the file cannot be read or carries no valid request.
    """
    text = read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise TetherError(f"{path} carries no Tether request: only PNGs written by `tether generate` can be repeated")
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise TetherError(f"{path} carries a request that does not read: {where}{first['msg']}") from None
