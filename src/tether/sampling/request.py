"""A generation request as data: everything an image is made from, small enough to travel inside its PNG.

A request is validated when it is made, and its defaults are the defaults of the whole package. Prepared
(`tether.sampling.session`), its conditions, initial image and masks are fitted to its size, so that it needs no other
image to be run again.
"""

from __future__ import annotations

import json
import math
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from tether.control import Injection
from tether.control.schedule import NUMBER, Schedule
from tether.errors import TetherError
from tether.images import read_metadata
from tether.sampling.combine import Combine
from tether.sampling.engines import check_engine
from tether.sampling.fields import MapImages, MaskImage, PngImage, PngImages, Strength, as_list
from tether.sampling.samplers import Sigmas, Spacing, check_choices

__all__ = [
    "FAST",
    "MAX_COUNT",
    "METADATA_KEY",
    "ControlRequest",
    "Request",
    "parse_lora",
    "read_request",
    "request_text",
]

METADATA_KEY = "tether"
MAX_COUNT = 1000
"""Images a request: a file cannot ask for more memory than there is."""
FAST: dict[str, Any] = {"deep_every": 3, "deep_skips": 1, "deep_window": (0.1, 1.0)}
"""The preset `fast`; see docs/performance.md for what it costs."""
RULES = 5
"""The rules of today; see `Request.rules`."""


def _checked_lora(text: str) -> str:
    parse_lora(text)
    return text


Seed = Annotated[int, Field(ge=0, lt=2**64)]


_LONE = re.compile(r"[\ud800-\udfff]")
_TYPE_NAMES = ("constrained-int", "list[constrained-int]")
"""What pydantic adds to the place of an error in a union of types."""


class _Model(BaseModel):
    """Frozen, without unknown keys. What is wrong is a `TetherError` in one line."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        # NumPy's numbers as Python's: pydantic does not take them.
        plain = {k: v.item() if type(v).__module__ == "numpy" else v for k, v in values.items()}
        try:
            super().__init__(**plain)
        except ValidationError as error:
            raise TetherError(self._line(error)) from None

    @classmethod
    def _line(cls, error: ValidationError) -> str:
        """The first of pydantic's errors in one line."""
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in _TYPE_NAMES)
        if first["type"] == "extra_forbidden":
            close = get_close_matches(where, cls.model_fields, n=1)
            return f"unknown key {where!r}: " + (f"did you mean {close[0]}?" if close else "leave it out")
        line = first["msg"].removeprefix("Value error, ")
        given = f", not {first['input']!r}" if isinstance(first["input"], (int, float, str)) else ""
        return f"{where}: {line[:1].lower()}{line[1:]}{given[:60]}" if where else line

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields of `_later` whose value is what files of older versions, which lack them, mean."""
        absent = self._later()
        values = handler(self).items()
        return {name: value for name, value in values if name not in absent or getattr(self, name) != absent[name]}

    @classmethod
    def _later(cls) -> dict[str, Any]:
        """Fields that older versions did not have -> the values that their files mean."""
        return {}


class ControlRequest(_Model):
    """One control of a request: with a condition map that is ready, or with a photo to annotate.

    Attributes:
        ref: what `tether.load_control` opens: a shipped kind, a path, a hub id.
        condition: the condition map; or a list of them, one an image of the batch.
        photo: an image to make the condition map from; or a list of them, one an image.
        kind: the kind of map to make; by default the control's own.
        annotator: the annotator of that kind; by default its first.
        options: the annotator's options.
        source: the file name of condition or photo; for people, never opened.
        invert: whether the condition is a negative: black lines on white. None: where its kind is white lines on black
            and it looks so. Prepared, it is inverted, and this is False.
        strength, weighting, sides, window, mask, mask_resize, every, tolerance: see `tether.Injection`. The mask is an
            image, white where the control acts. A strength of one constant part, "0.2@0-0.3", is a number and a window.
    """

    ref: str
    condition: MapImages = None
    photo: PngImages = None
    kind: str | None = None
    annotator: str | None = None
    options: dict[str, float] = Field(default_factory=dict)
    source: str = ""
    strength: Strength = 1.0
    weighting: str | list[float] = "balanced"
    sides: Literal["both", "conditional"] | float | None = None
    window: tuple[float, float] = (0.0, 1.0)
    mask: MaskImage | None = None
    mask_resize: Literal["area", "bilinear"] = "area"
    invert: bool | None = False
    every: int = 1
    tolerance: float = 0.0

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if (self.condition is None) == (self.photo is None):
            raise TetherError(f"control {self.ref}: give either a condition (a ready map) or a photo to annotate")
        if self.photo is None and (self.kind or self.annotator or self.options):
            raise TetherError(f"control {self.ref}: kind, annotator and options are for a photo, not for a ready map")
        if self.photo is not None and self.invert:
            raise TetherError(f"control {self.ref}: invert is for a ready map, not for a photo")
        injection: Any = self.injection()
        if not isinstance(injection.strength, Schedule) and isinstance(self.strength, str):
            object.__setattr__(self, "strength", injection.strength)
            object.__setattr__(self, "window", injection.window)
        return self

    def injection(self, exact_window: bool = False) -> Injection:
        """How the control is injected; with `exact_window`, under the rules before 3, see `Request.rules`.

        Raises:
            TetherError: when a value is out of range.
        """
        weighting: Any = self.weighting  # a name is checked there
        how = (self.strength, weighting, self.sides, self.window, self.mask, self.mask_resize)
        return Injection(*how, exact_window=exact_window, every=self.every, tolerance=self.tolerance)

    @property
    def conditions(self) -> list[Image.Image]:
        """The maps: none yet, one for all images, or one an image."""
        return as_list(self.condition)

    @property
    def photos(self) -> list[Image.Image]:
        """The photos: none, one for all images, or one an image."""
        return as_list(self.photo)

    def for_image(self, index: int) -> Self:
        """The control of one image of the batch."""
        given = {"condition": self.conditions, "photo": self.photos}
        return self.model_copy(update={name: images[index] for name, images in given.items() if len(images) > 1})

    def without_photo(self) -> Self:
        """The same with its condition alone."""
        return self.model_copy(update={"photo": None, "kind": None, "annotator": None, "options": {}})

    @classmethod
    def _later(cls) -> dict[str, Any]:
        photo = {"photo": None, "kind": None, "annotator": None, "options": {}}
        return photo | {"mask": None, "mask_resize": "area", "invert": False, "every": 1, "tolerance": 0.0}


class Request(_Model):
    """A batch of images to generate.

    Attributes:
        prompt: what to generate; `(words:1.2)` weights words, and it may be longer than the text encoder's window.
        negative_prompt: what to avoid.
        base: what `load_base` opens: "tether" (shipped), a diffusers folder, a single file, a hub id.
        vae: another autoencoder for the base.
        loras: LoRA files for the base, each REF or REF:STRENGTH.
        embeddings: textual-inversion embeddings for the base.
        dtype: of weights and computation.
        prediction_type: what the base predicts, when its files are wrong or silent about it.
        clip_skip: number of last layers of the text encoder to leave out.
        controls: any number of controls.
        combine: how the signals of several controls become one: "sum", or "limited", at each place no longer than the
            longest of them (`tether.sampling.combine`).
        seed: of the first image, image k has seed + k; or one seed an image.
        count: number of images.
        index: the place in the batch of the image that carries the request. An image is repeated to the byte by
            generating its whole batch again, because arithmetic on another batch size rounds differently.
        steps: denoising steps, 1 to 1000; 1 to 50 with "lcm". Above 100, counts that a scheduler cannot spread are
            refused.
        guidance_scale: s of classifier-free guidance, ε = ε_uc + s (ε_c - ε_uc): 1 is the prompt alone, without
            guidance, 0 the negative prompt alone.
        scheduler: a name of `tether.sampling.SCHEDULERS`.
        spacing: how the steps are spread over the timesteps; by default the base's own, "trailing" for one with zero
            terminal SNR and where the base's would start far below the last timestep.
        sigmas: how the noise levels are spread instead: "karras" or "exponential".
        eta: of "ddim", the share of noise that each step adds, from 0 (none) to 1 (as DDPM).
        guidance_window: (start, end) of the steps that are guided; the others draw by the prompt alone.
        deep_every: the deep part of the base is computed at each `deep_every`-th step, and its features serve those
            between (`tether.sampling.reuse`).
        deep_skips: how many skip connections belong to the part of the base that is computed at every step.
        deep_window: (start, end) of the steps at which deep features are reused.
        merge_tokens: the share of the positions that self-attention merges where the base attends first, 0 to 0.75
            (`tether.base.merging`).
        fast: gives each field of `FAST` that is not given its value there: the preset that is written, field by field,
            into what is drawn.
        guidance_rescale: φ of arXiv:2305.08891, section 3.4: how much of the contrast that guidance adds is taken back.
        size: width and height in pixels, multiples of 8; by default the base's own square.
        fit: how images of another shape are fitted to the size: "stretch", "crop" or "pad".
        init: an image to start from (image-to-image).
        init_latents: whether image-to-image starts from the mean of the autoencoder's posterior, or from a sample of it
            for each image, as the original repository does.
        denoising_strength: how much of `init` is generated anew, in (0, 1]; with a mask, of the masked part.
        mask: white where `init` is generated anew, black where it is kept to the byte (inpainting). It has the shape of
            `init`, or exactly the size that is drawn.
        low_memory: whether to decode in tiles, which do not give the same bytes, and one image at a time.
        device: where to compute.
        engine: what computes denoiser and controls: a name of `tether.sampling.engines`; "auto" is the fastest one that
            is installed. Engines round differently, so images may differ by a level.
        versions: of the packages that the bytes of the image depend on.
        fingerprints: of the models that are files or folders, by their references (`tether.files.fingerprint`), so that
            they are found when they were moved.
        rules: the rules of drawing, so that an image of an older version is repeated as it was drawn. Under 1, which a
            drawn request without this field has, a guidance_scale below 1 meant no guidance, what inpainting keeps was
            decoded from latents, its mask was cut at half gray and sampled at the middle of each latent, the mask of a
            control that pools globally acted after pooling, and prompts were read by the syntax "simple" of
            `tether.base.prompt_syntax`. Under 1 and 2, windows were compared with steps to the last bit, so that
            0.333333 was less than a third. Under 1 to 3, what a control recommends (`Control.sides`) was not looked at,
            and latents had the dtype of the networks between the steps too. Under 1 to 4, "trailing" spacing made one
            step more for some numbers of steps (61, 103, 121, ... of 1,000 timesteps), and inpainting at a
            denoising_strength of 1 put what it keeps back at the noise level of another step where rounded timesteps
            repeat (dpmpp-2m and unipc with `sigmas` and many steps).

    Raises:
        TetherError: when a value is out of range, or values do not go together.
    """

    prompt: str
    negative_prompt: str = ""
    base: str = "tether"
    vae: str | None = None
    loras: list[Annotated[str, AfterValidator(_checked_lora)]] = Field(default_factory=list)
    embeddings: list[str] = Field(default_factory=list)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    clip_skip: int = Field(default=0, ge=0, le=10)
    controls: list[ControlRequest] = Field(default_factory=list)
    combine: Combine = "sum"
    seed: Seed | list[Seed] = 0
    count: int = Field(default=1, ge=1, le=MAX_COUNT)
    index: int = Field(default=0, ge=0)
    steps: int = Field(default=20, ge=1, le=1000)
    guidance_scale: float = Field(default=5.0, allow_inf_nan=False)
    scheduler: str = "dpmpp-2m"
    spacing: Spacing | None = None
    sigmas: Sigmas | None = None
    eta: float = Field(default=0.0, ge=0, le=1)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    guidance_window: tuple[float, float] = (0.0, 1.0)
    deep_every: int = Field(default=1, ge=1, le=1000)
    deep_skips: int = Field(default=1, ge=1)
    deep_window: tuple[float, float] = (0.0, 1.0)
    merge_tokens: float = Field(default=0.0, ge=0, le=0.75)
    fast: bool = False
    size: tuple[int, int] | None = None
    fit: Literal["stretch", "crop", "pad"] = "crop"
    init: PngImage | None = None
    init_latents: Literal["mean", "sample"] = "mean"
    denoising_strength: float = Field(
        default=0.6, gt=0, le=1, allow_inf_nan=False, validation_alias=AliasChoices("denoising_strength", "strength")
    )
    mask: MaskImage | None = None
    low_memory: bool = False
    device: str = "cpu"
    engine: str = "eager"
    versions: dict[str, str] = Field(default_factory=dict)
    fingerprints: dict[str, Annotated[str, Field(pattern=r"^[0-9]{1,18}:")]] = Field(default_factory=dict)
    rules: int = Field(default=RULES, ge=1, le=RULES)

    @model_validator(mode="before")
    @classmethod
    def _with_rules(cls, values: Any) -> Any:
        """A request that was drawn (it has versions) before there were rules was drawn by the first."""
        if isinstance(values, dict) and values.get("versions") and "rules" not in values:
            return values | {"rules": 1}
        return values

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """The fields of `FAST` where it is asked for."""
        if isinstance(values, dict) and values.get("fast") is True:
            return FAST | values | {"fast": False}
        return values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        check_choices(self.scheduler, self.spacing, self.sigmas, self.eta)
        check_engine(self.engine)
        for name, (start, end) in (("guidance_window", self.guidance_window), ("deep_window", self.deep_window)):
            if not 0 <= start < end <= 1:
                raise TetherError(f"{name} is {start:g}-{end:g}: it must be START-END with 0 <= START < END <= 1")
        if max(self.seeds, default=0) >= 2**64:
            raise TetherError(f"seed {max(self.seeds)} is too large: that of the last image must be below 2^64")
        if len(self.seeds) != self.count or self.index >= self.count:
            raise TetherError(f"count is {self.count}, with {len(self.seeds)} seeds and index {self.index}")
        for entry in self.controls:
            given = len(entry.conditions or entry.photos)
            if given not in (1, self.count):
                raise TetherError(
                    f"control {entry.ref} has {given} images for a count of {self.count}: give one, or one an image"
                )
        if self.mask is not None and self.init is None:
            raise TetherError("mask needs an image to inpaint: give init too")
        if self.init is not None and int(self.steps * self.denoising_strength) < 1:
            raise TetherError(
                f"{self.steps} steps at denoising_strength {self.denoising_strength} leave nothing to draw: "
                "raise one of them"
            )
        return self

    @property
    def seeds(self) -> list[int]:
        """One seed an image."""
        return [self.seed + k for k in range(self.count)] if isinstance(self.seed, int) else self.seed

    def for_image(self, index: int) -> Self:
        """A request for one image of the batch alone, with its own seed and maps."""
        controls = [entry.for_image(index) for entry in self.controls]
        return self.model_copy(update={"seed": self.seeds[index], "count": 1, "index": 0, "controls": controls})

    def metadata(self, index: int) -> dict[str, str]:
        """PNG text for image `index` of the batch; of a photo only the condition made from it is written."""
        controls = [entry if entry.condition is None else entry.without_photo() for entry in self.controls]
        return {METADATA_KEY: self.model_copy(update={"index": index, "controls": controls}).model_dump_json()}

    @classmethod
    def _later(cls) -> dict[str, Any]:
        sampling = {"spacing": None, "sigmas": None, "eta": 0.0, "guidance_rescale": 0.0}
        later = {"engine": "eager", "fingerprints": {}, "rules": 1, "init_latents": "mean", "combine": "sum"}
        less = {"deep_every": 1, "deep_skips": 1, "deep_window": (0.0, 1.0), "merge_tokens": 0.0, "fast": False}
        return later | sampling | less | {"guidance_window": (0.0, 1.0)}


def request_text(path: Path) -> str:
    """The JSON of the request inside a PNG.

    Raises:
        TetherError: when the file cannot be read, or carries no request.
    """
    text = read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise TetherError(f"{path} carries no Tether request: only pictures that Tether drew, as PNG, do")
    return text


def read_request(path: Path) -> Request:
    """The request inside a PNG that Tether wrote, also by an older version.

    Raises:
        TetherError: when the file cannot be read, or carries no valid request.
    """
    text = request_text(path)
    try:
        values = json.loads(text)
        if _LONE.search(json.dumps(values, ensure_ascii=False)):
            raise TetherError("a text in it has half of a surrogate pair, which is no character")
        return Request(**values)
    except (TetherError, TypeError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise TetherError(f"{path} carries a request that is not valid: {line}") from None


def parse_lora(text: str) -> tuple[str, float]:
    """Reads REF[:STRENGTH], for example style.safetensors:0.8.

    Raises:
        TetherError: when the text has another form, or the strength is not finite.
    """
    match = re.fullmatch(rf"(.+?)(?::(-?{NUMBER}))?", text)
    strength = 1.0 if match is None else float(match[2] or 1)
    if match is None or not math.isfinite(strength):
        raise TetherError(f"{text[:80]!r} is not a LoRA: write REF[:STRENGTH], for example style.safetensors:0.8")
    return match[1], strength
