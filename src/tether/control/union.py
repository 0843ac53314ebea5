"""Union: one trainable copy for several kinds of condition (after ControlNet++ / ControlNetUnion of xinsir, 2024).

    c_f     = Z(E(S_k(c_i)); θz1)           a stem S_k for each kind k, the rest of the hint encoder for all
    temb    = T(t) + e_k                    a vector e_k for each kind, zero before training
    s_1..n  = encoder(conv_in(z_t) + c_f, temb, c_t; θc),  and so on as in `tether.control.controlnet`

With one kind chosen it *is* a ControlNet: e_k is added to the bias of T's last layer, and the stem S_k is put before
the rest of the hint encoder. `UnionControlNet.of_kind`, `tether.load_control("union:depth")` and `tether convert
union:depth OUT` make that ControlNet, so a kind of a union is used, combined and converted as any other control.
Several kinds in one image are several controls, each with a strength, window and mask of its own.

| here                                     | in the ControlNet of kind k                        |
|------------------------------------------|----------------------------------------------------|
| `controlnet_cond_embedding.stems.k`      | `controlnet_cond_embedding.conv_in`, `.blocks` but the last |
| `controlnet_cond_embedding.last`         | the last of `controlnet_cond_embedding.blocks`     |
| `time_embedding` and `kind_embedding`[k] | `time_embedding`                                   |
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from tether.control.architecture import ENCODER_PARTS, assemble, build, complete
from tether.control.conditioning import Conditioning
from tether.control.control import Steerable, register, several_kinds
from tether.control.controlnet import ControlNet
from tether.control.files import ControlPart
from tether.control.hint import HintEncoder, check_condition
from tether.control.store import fill, read_folder
from tether.control.zero import ZeroConv2d
from tether.errors import TetherError
from tether.files.folder import FAMILY
from tether.files.materialize import check_fits_network
from tether.formats.families import describe, family_of_config
from tether.kinds import find_kind

__all__ = ["UnionControlNet", "UnionHintEncoder", "kinds_of_config", "plain_tensors", "union_part"]

KINDS = "kinds"
"""Key of config.json: the names of the kinds, in the order of `kind_embedding`."""
_HINT, _EMBEDDING, _TIME_BIAS = "controlnet_cond_embedding.", "kind_embedding.weight", "time_embedding.linear_2.bias"
_ZEROS = ("controlnet_down_blocks", "controlnet_mid_block")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class UnionHintEncoder(nn.Module):
    """The hint encoders of several kinds: a stem for each, and the last two layers for all.

    Args:
        kinds: the names of the kinds.
        condition_channels, out_channels, block_out_channels: as for `HintEncoder`, whose variant is "released".
    """

    def __init__(
        self, kinds: Sequence[str], condition_channels: int, out_channels: int, block_out_channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.kinds, self.condition_channels = tuple(kinds), condition_channels
        self.block_out_channels = tuple(block_out_channels)
        self.factor = 2 ** (len(self.block_out_channels) - 1)
        self.check_values = True  # as for `HintEncoder`
        self.activation = nn.SiLU()
        self.stems = nn.ModuleDict()
        whole = [HintEncoder(condition_channels, out_channels, "released", block_out_channels) for _ in self.kinds]
        for kind, encoder in zip(self.kinds, whole, strict=True):
            stem = nn.Module()
            stem.conv_in, stem.blocks = encoder.conv_in, encoder.blocks[:-1]
            self.stems[kind] = stem
        self.last = cast(nn.Conv2d, whole[0].blocks[-1])
        self.conv_out = ZeroConv2d(self.block_out_channels[-1], out_channels, kernel_size=3)

    def forward(self, condition: Tensor, rows: Sequence[int]) -> Tensor:
        """Encodes conditions of several kinds.

        Args:
            condition: `(B, C, H, W)`, values in the range of each one's kind.
            rows: the number of each one's kind; or one number for all.

        Returns:
            Features `(B, out_channels, H/8, W/8)`.

        Raises:
            TetherError: as `HintEncoder`.
        """
        rows = list(rows) * len(condition) if len(rows) == 1 else list(rows)
        if len(rows) != len(condition):
            raise TetherError(f"{len(rows)} kinds were chosen for {len(condition)} conditions: give one for each")
        parts, order = [], []
        for number in dict.fromkeys(rows):
            places = [place for place, row in enumerate(rows) if row == number]
            some = condition if len(places) == len(rows) else condition[places]
            parts.append(self._stem(self.kinds[number], some))
            order += places
        features = torch.cat(parts)
        if order != sorted(order):
            features = features[torch.tensor(order, device=features.device).argsort()]
        return self.conv_out(self.activation(self.last(features)))

    def _stem(self, kind: str, condition: Tensor) -> Tensor:
        stem: Any = self.stems[kind]
        check_condition(
            condition,
            self.condition_channels,
            self.factor,
            find_kind(kind).value_range,
            values=self.check_values,
        )
        features = self.activation(stem.conv_in(condition.to(stem.conv_in.weight.dtype)))
        for conv in stem.blocks:
            features = self.activation(conv(features))
        return features

    def plain(self, kind: str) -> HintEncoder:
        """The hint encoder of one kind; it shares its layers with this one."""
        stem: Any = self.stems[kind]
        with torch.device("meta"):
            encoder = HintEncoder(self.condition_channels, 1, "released", self.block_out_channels)
        encoder.conv_in, encoder.conv_out = stem.conv_in, self.conv_out
        encoder.blocks = nn.ModuleList([*stem.blocks, self.last])
        encoder.check_values = self.check_values
        return encoder


@register("union")
class UnionControlNet(ControlNet):
    """A ControlNet for several kinds of condition.

    Make one with `from_base` or `from_control` (to train), or open one with `tether.load_control`. To use it, take one
    of its kinds with `of_kind`; to train it, `choose` the kinds of a batch.

    Args:
        parts: its modules by name.
        config: as for `ControlNet`, with "kinds".
    """

    controlnet_cond_embedding: UnionHintEncoder  # type: ignore[assignment]
    kind_embedding: nn.Embedding
    _rows: tuple[int, ...] | None = None
    """The numbers of the kinds that were chosen."""

    @classmethod
    def from_unet(cls, unet: Any, *args: Any, kinds: Sequence[str] = (), **settings: Any) -> Self:
        """A new union for a U-Net: as `ControlNet.from_unet`, with `kinds`.

        Raises:
            TetherError: as `ControlNet.from_unet`, for no kinds, or for the hint encoder of the paper.
        """
        return cls.from_control(ControlNet.from_unet(unet, *args, **settings), kinds)

    @classmethod
    def from_control(cls, control: ControlNet, kinds: Sequence[str]) -> Self:
        """A new union in which every kind does what `control` does.

        Kinds that `control` has already, if it is a union, stay as they are; new ones start as its first.

        Args:
            control: a ControlNet or a union; it is neither changed nor shared.
            kinds: names of the kinds.

        Raises:
            TetherError: for no kinds or names that are not valid, or for the hint encoder of the paper.
        """
        config = {**control.config, KINDS: list(kinds)}
        with torch.device("meta"):
            union = cls.from_config(config)
        former = control.kinds if isinstance(control, UnionControlNet) else ()
        tensors = control.state_dict()
        found: dict[str, Tensor] = {}
        for kind in union.kinds:
            source = kind if kind in former else next(iter(former), None)
            plain = tensors if source is None else plain_tensors(tensors, former, source, fold=False)
            for name in union.state_dict():
                whole = _plain_name(name, kind, len(union.controlnet_cond_embedding.block_out_channels))
                if whole is not None:
                    found[name] = plain[whole].clone()
        old = tensors[_EMBEDDING] if former else None
        width = union.kind_embedding.embedding_dim
        zero = torch.zeros(width, device=control.device, dtype=control.dtype)
        rows = [zero if old is None else old[former.index(k) if k in former else 0] for k in union.kinds]
        found[_EMBEDDING] = torch.stack(rows).clone()
        union.load_state_dict(found, assign=True)
        union.name = control.name
        return union.requires_grad_(True).train()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A randomly initialized union of the architecture that `config` describes; works on "meta" too.

        Raises:
            TetherError: when it does not describe a union.
        """
        kinds = kinds_of_config(config)
        plain = plain_config(config)
        model = build(plain)
        settings = complete(model, plain)
        if settings.get("hint", "released") != "released":
            raise TetherError('a union has hint encoders of the variant "released"; this control has the paper\'s')
        parts = assemble(model, settings)
        channels = model.conv_in.out_channels
        hint = (settings["conditioning_channels"], channels, settings["conditioning_embedding_out_channels"])
        parts["controlnet_cond_embedding"] = UnionHintEncoder(kinds, *hint)
        width = model.time_embedding.linear_2.out_features
        parts["kind_embedding"] = nn.Embedding(len(kinds), width, _weight=torch.zeros(len(kinds), width))
        return cls(parts, {**settings, KINDS: list(kinds)})

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return super(ControlNet, cls).recognizes(path)

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        base: Steerable | None = None,
        kind: str | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The union in a folder; a `kind` is not looked at here, see `of_kind`."""
        stored = read_folder(path)
        union = cls.from_config(stored.config)
        fill(union, stored.tensors, dtype, str(path))
        union.sides = stored.sides
        return union

    def saved_config(self) -> dict[str, Any]:
        return {**self.config, "_class_name": type(self).__name__, FAMILY: self.family}

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.config[KINDS])

    def of_kind(self, kind: str) -> ControlNet:
        """The ControlNet of one kind. It shares all layers with this union but the time embedding.

        Raises:
            TetherError: when it is none of its kinds.
        """
        number = self._number(kind)
        parts = {name: getattr(self, name) for name in (*ENCODER_PARTS, *_ZEROS)}
        parts["controlnet_cond_embedding"] = self.controlnet_cond_embedding.plain(kind)
        time = copy.deepcopy(self.time_embedding)
        with torch.no_grad():
            cast(Any, time).linear_2.bias += self.kind_embedding.weight[number]
        plain = ControlNet(parts | {"time_embedding": time}, plain_config(self.config))
        plain.kind, plain.sides, plain.name = kind, self.sides, f"{self.name}:{kind}"
        return plain.train(self.training)

    def choose(self, kinds: Sequence[str]) -> UnionControlNet:
        chosen = copy.copy(self)  # another object with the same modules, hooks and all
        chosen._rows = tuple(self._number(kind) for kind in kinds)
        return chosen

    def only(self, kinds: Sequence[str]) -> UnionControlNet:
        """A union of some of its kinds, with weights of its own.

        Raises:
            TetherError: when one is none of its kinds.
        """
        for kind in kinds:
            self._number(kind)
        return self.from_control(self, kinds)

    def encode(self, condition: Tensor, condition_range: tuple[float, float] | None = None) -> Tensor:
        """Conditions of the chosen kinds, `(B, C, H, W)`, -> hint `(B, C0, H/8, W/8)`; each in its kind's range.

        Raises:
            TetherError: when no kind is chosen, and as `HintEncoder`.
        """
        return self.controlnet_cond_embedding(condition, self._chosen())

    def _embed(
        self, latents: Tensor, timestep: int | float | Tensor, text_states: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        embedding, text_states = super()._embed(latents, timestep, text_states, conditioning)
        rows = torch.tensor(self._chosen(), device=embedding.device)
        return embedding + self.kind_embedding(rows).to(self.dtype), text_states

    def _chosen(self) -> tuple[int, ...]:
        if self._rows is None:
            raise several_kinds(self)
        return self._rows

    def _number(self, kind: str) -> int:
        kind = kind if kind in self.kinds else find_kind(kind).name
        if kind not in self.kinds:
            raise TetherError(f"control {self.name} has no kind {kind!r}: choose one of {', '.join(self.kinds)}")
        return self.kinds.index(kind)


def union_part(path: Path, kind: str | None) -> ControlPart:
    """The ControlNet of one kind of a union's folder, in files: mapped tensors, for conversions.

    Raises:
        TetherError: when the folder is damaged, or no kind, or none of its kinds, is named.
    """
    stored = read_folder(path)
    kinds = kinds_of_config(stored.config)
    if kind is not None and kind not in kinds:
        kind = kind if find_kind(kind).name not in kinds else find_kind(kind).name
    if kind not in kinds:
        said = "it is for several kinds" if kind is None else f"it has no kind {kind!r}"
        raise TetherError(f"{path}: {said}; name one of {', '.join(kinds)}, as in {path}:{kinds[0]}")
    with torch.device("meta"):
        union = UnionControlNet.from_config(stored.config)
    check_fits_network(union.state_dict(), stored.tensors, str(path))
    config = plain_config(union.config)
    family = describe(family_of_config(config), config.get("cross_attention_dim"))
    part = ControlPart(config, plain_tensors(stored.tensors, kinds, kind), f"{path}:{kind}", f"ControlNet for {family}")
    part.kind, part.sides = kind, stored.sides
    part.check()
    return part


def kinds_of_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of a union's config.json.

    Raises:
        TetherError: when it has none, or names that are not valid.
    """
    kinds = config.get(KINDS)
    if not isinstance(kinds, (list, tuple)) or not kinds:
        raise TetherError("a union needs the kinds of its conditions: give a list")
    for kind in kinds:
        if not isinstance(kind, str) or not _NAME.fullmatch(kind) or kinds.count(kind) > 1:
            raise TetherError(f"{kind!r} cannot be a kind of a union: each has one name of letters, digits, _ and -")
    return tuple(kinds)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a ControlNet of one kind of a union."""
    return {name: value for name, value in config.items() if name not in (KINDS, FAMILY)}


def plain_tensors(
    tensors: Mapping[str, Tensor], kinds: Sequence[str], kind: str, *, fold: bool = True
) -> dict[str, Tensor]:
    """The tensors of the ControlNet of one kind, from a union's.

    Args:
        tensors: the union's.
        kinds: its kinds.
        kind: one of them.
        fold: add the kind's embedding to the time embedding's bias; summed in float32.
    """
    blocks = sum(name.startswith(f"{_HINT}stems.{kind}.blocks.") and name.endswith("weight") for name in tensors)
    stages = (blocks + 1) // 2 + 1  # two layers for each stage but the last, the last of them in no stem
    found = {}
    for name, tensor in tensors.items():
        plain = _plain_name(name, kind, stages)
        if plain is not None:
            found[plain] = tensor
    if fold:
        bias, own = found[_TIME_BIAS], tensors[_EMBEDDING][list(kinds).index(kind)]
        found[_TIME_BIAS] = (bias.float() + own.float()).to(bias.dtype)
    return found


def _plain_name(name: str, kind: str, stages: int) -> str | None:
    """The name of a union's tensor in the ControlNet of one of its kinds; None if it has no part in it."""
    if name == _EMBEDDING:
        return None
    if not name.startswith(_HINT):
        return name
    inner = name.removeprefix(_HINT)
    if inner.startswith("stems."):
        _, owner, rest = inner.split(".", 2)
        return _HINT + rest if owner == kind else None
    if inner.startswith("last."):
        return f"{_HINT}blocks.{2 * (stages - 1) - 1}.{inner.removeprefix('last.')}"
    return name
