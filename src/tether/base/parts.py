"""A base as it is in files: the config and the mapped tensors of each network, under diffusers' names.

Reading a folder or a single file gives `Parts`; a `Base` in memory, a folder or a single file is made from it. So
whatever can be opened can be written.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from tether.base.base import Base
from tether.base.clip import own_clip
from tether.base.text import TextEncoders
from tether.errors import TetherError
from tether.files.materialize import check_fits_network, materialize, without_values
from tether.formats.measures import check_measures
from tether.formats.strays import split_strays

__all__ = ["Part", "Parts", "make_network"]

INVALID = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    RuntimeError,
    StrictDataclassError,
)
"""What diffusers and transformers raise for an invalid config."""
TEXT_MODEL = "text_model."
"""What the names of CLIP's text tensors begin with in files, and in some versions of transformers in networks."""


def make_network(config: Mapping[str, Any], what: str, *, light: bool = False) -> nn.Module:
    """The network that a `config.json` describes, without weights (on "meta").

    Args:
        config: of diffusers' `UNet2DConditionModel` or `AutoencoderKL`, or of transformers' CLIP.
        what: its name in messages.
        light: CLIP as Tether's own module, where it knows it.

    Raises:
        TetherError: if the config is invalid, or of another class.
    """
    check_measures(config, what)
    settings = dict(config)
    kind = settings.pop("_class_name", None) or (settings.get("architectures") or ["nothing"])[0]
    settings.pop("_diffusers_version", None)
    try:
        with without_values(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about settings of old versions, which are supported
            if kind == "UNet2DConditionModel":
                return UNet2DConditionModel.from_config(settings)  # type: ignore[return-value]
            if kind == "AutoencoderKL":
                return AutoencoderKL.from_config(settings)  # type: ignore[return-value]
            if kind in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"):
                return (own_clip(settings) if light else None) or _clip_of_transformers(settings, kind)
    except INVALID as error:
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise TetherError(f"{what} has an invalid config: {line[:160]}") from None
    raise TetherError(f"{what} is a {kind}: expected a network of Stable Diffusion 1.x, 2.x or XL")


def _clip_of_transformers(settings: dict[str, Any], kind: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    text = CLIPTextConfig.from_dict(settings)
    return (CLIPTextModelWithProjection if kind.endswith("Projection") else CLIPTextModel)(text)


@dataclass
class Part:
    """One network.

    Attributes:
        config: its `config.json`.
        tensors: mapped, under their names in files: those of a CLIP begin with "text_model." (in transformers 5 not).
        what: its name in messages.
        light: see `make_network`.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    what: str
    light: bool = False

    @cached_property
    def network(self) -> nn.Module:
        """The network that the config describes, without weights.

        Raises:
            TetherError: if the config is invalid.
        """
        return make_network(self.config, self.what, light=self.light)

    def named_for(self, network: nn.Module) -> dict[str, Tensor]:
        """The tensors under the network's own names."""
        if any(name.startswith(TEXT_MODEL) for name in self.tensors):
            own = network.state_dict()
            if not any(name.startswith(TEXT_MODEL) for name in own):
                return _bare(self.tensors)
        return self.tensors

    def leave_out_strays(self) -> list[str]:
        """Removes tensors outside of the network's modules, and returns their names."""
        strays, _ = split_strays(_bare(self.tensors), _bare(self.network.state_dict()))
        stray = set(strays)
        self.tensors = {
            name: tensor for name, tensor in self.tensors.items() if name.removeprefix(TEXT_MODEL) not in stray
        }
        return strays

    def check(self) -> None:
        """Refuses tensors that are not exactly those of the network.

        Raises:
            TetherError: naming what is missing, unexpected or of another shape.
        """
        check_fits_network(self.network.state_dict(), self.named_for(self.network), self.what)

    def materialize(self, dtype: torch.dtype | None) -> Any:
        """The network with its weights, cast to `dtype` (None keeps theirs).

        Raises:
            TetherError: as `check`, or if a weight is NaN or infinite.
        """
        network = self.network
        materialize(network, self.named_for(network), dtype, self.what)
        del self.network  # it has weights now
        return network.eval()


@dataclass
class Parts:
    """A base.

    Attributes:
        family: "sd1", "sd2", "sdxl", or "custom".
        words: what it is, for messages.
        unet, vae, text_encoder, text_encoder_2: its networks.
        scheduler: its `scheduler_config.json`.
        index: its `model_index.json`.
        tokenizer, tokenizer_2: its tokenizers, of transformers or a `tether.base.tokenizer.ClipTokenizer`.
        original_only: tensors that only the original layout has and no network uses.
        notes: what was left out, for messages.
    """

    family: str
    words: str
    unet: Part
    vae: Part
    text_encoder: Part
    scheduler: dict[str, Any]
    index: dict[str, Any]
    tokenizer: Any
    text_encoder_2: Part | None = None
    tokenizer_2: Any = None
    original_only: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def networks(self) -> dict[str, Part]:
        """The networks under the names of their folders."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        return parts if self.text_encoder_2 is None else parts | {"text_encoder_2": self.text_encoder_2}

    def materialize(self, dtype: torch.dtype | None, name: str, source: Path) -> Base:
        """The base, with one copy of its weights in memory.

        SDXL's own autoencoder overflows in float16, as its config declares (`force_upcast`): it is kept in float32.

        Raises:
            TetherError: as `Part.materialize`.
        """
        dtypes = dict.fromkeys(self.networks(), dtype)
        if dtype == torch.float16 and self.text_encoder_2 is not None and self.vae.config.get("force_upcast", True):
            dtypes["vae"] = torch.float32
        networks = {name: part.materialize(dtypes[name]) for name, part in self.networks().items()}
        pairs: list[tuple[Any, Any]] = [(self.tokenizer, networks["text_encoder"])]
        if "text_encoder_2" in networks:
            pairs.append((self.tokenizer_2, networks["text_encoder_2"]))
        return Base(
            networks["unet"],
            networks["vae"],
            TextEncoders(*pairs),
            noise_schedule=self.scheduler,
            name=name,
            words="; ".join([self.words, *self.notes]),
            family=self.family,
            zero_empty_negative=bool(self.index.get("force_zeros_for_empty_prompt", False)),
            source=source,
        )


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without `TEXT_MODEL`."""
    return {name.removeprefix(TEXT_MODEL): tensor for name, tensor in tensors.items()}
