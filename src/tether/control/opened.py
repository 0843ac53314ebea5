"""Controls on disk: opened from every layout people have, checked against a base, and written.

The network is `tether.control.ControlNet`; this subclass adds files and names to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from tether import control
from tether.control.files import NOTES, control_of
from tether.errors import TetherError
from tether.files.hub import find
from tether.files.materialize import FilePages, land
from tether.files.writing import replacing, write_json, write_safetensors
from tether.weights import shipped, shipped_controls

if TYPE_CHECKING:
    from tether.base.base import Base

__all__ = ["ControlNet"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}


class ControlNet(control.ControlNet):
    """A ControlNet that knows where it came from.

    Attributes:
        kind: what its conditions are ("canny", ...), or None where nothing says so.
        name: how messages call it.
    """

    kind: str | None = None
    name: str = "control"

    @classmethod
    def load(
        cls,
        ref: str | Path,
        *,
        base: Base | None = None,
        kind: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> Self:
        """Opens a control, ready for inference. Its weights are in memory once, as those of `load_base`.

        Args:
            ref: the kind of a shipped control ("canny"), the path of a diffusers folder, a single file in a released
                layout (whole, pruned, without prefix, or a difference) or in diffusers' layout, or a name on the hub
                ("owner/name", "owner/name/file.safetensors", with "@revision" or without).
            base: the base it will be used with: what a difference file is added to; tensors that are equal to the
                base's, as those of an untrained control are, are then shared with it, so a control that
                is to be trained is opened without it.
            kind: what its conditions are; from its notes, or guessed from its name, when left out.
            dtype: what the weights are cast to.
            device: where they are put.
            revision: of a name on the hub.

        Raises:
            TetherError: where there is nothing at `ref`, or no ControlNet, or a damaged or hostile one, or one that
                does not fit `base`.
        """
        own = str(ref) in shipped_controls()
        path = shipped(f"control-{ref}") if own else find(ref, f"control (shipped: {_shipped_words()})", revision)
        unet = None if base is None else base.unet.state_dict()
        name = None if Path(ref).exists() else str(ref)  # a path's folders may be called after anything
        part = control_of(path, base_unet=unet, kind=kind or (str(ref) if own else None), name=name, cls=cls)
        loaded = part.network
        assert isinstance(loaded, cls)
        land(loaded, part.tensors, dtype, part.what)
        loaded.kind, loaded.name = part.kind, str(ref)
        loaded.to(device).eval().requires_grad_(False)
        if base is not None:
            loaded.check_fits(base)
            _share_equal(loaded, base.unet)
        return loaded

    def save(self, path: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes a diffusers folder that `diffusers.ControlNetModel.from_pretrained` opens; all of it or nothing.

        Args:
            path: the folder; a control's that is there is replaced as a whole.
            dtype: what the weights are cast to; as they are when left out.

        Raises:
            TetherError: when it cannot be written, or the weights are broken.
        """
        with replacing(Path(path), force=True) as part:
            part.mkdir()
            write_safetensors(part / WEIGHTS, self.state_dict(), dtype)
            write_json(part / "config.json", {**self.config, "_class_name": "ControlNetModel"})
            if self.kind is not None:
                write_json(part / NOTES, {"kind": self.kind})

    def check_fits(self, base: Base) -> None:
        """Refuses a base that this control was not made for.

        Raises:
            TetherError: naming both: "control canny has 768-wide text states (SD 1.x), the base sd21 1024 (SD 2.x)".
        """
        ours, theirs = self.config, base.unet.config
        width, wanted = (settings["cross_attention_dim"] for settings in (ours, theirs))
        if width != wanted:
            said = [f" ({WIDTHS[w]})" if isinstance(w, int) and w in WIDTHS else "" for w in (width, wanted)]
            raise TetherError(
                f"control {self.name} has {width}-wide text states{said[0]}, the base {base.name} {wanted}{said[1]}: "
                "use a control that was made for this kind of base"
            )
        for setting, words in (
            ("block_out_channels", "blocks of {} channels"),
            ("layers_per_block", "{} layers a block"),
            ("addition_embed_type", "added conditions {}"),
            ("in_channels", "latents of {} channels"),
        ):
            # What a denoiser gives are latents; it may take more than those (9 channels, when made for inpainting).
            pair = [_plain(ours[setting]), _plain(theirs["out_channels" if setting == "in_channels" else setting])]
            if pair[0] != pair[1]:
                has = words.format(pair[0])
                raise TetherError(
                    f"control {self.name} has {has}, the base {base.name} {pair[1]}: "
                    "use a control that was made for this kind of base"
                )


def _plain(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting


def _shipped_words() -> str:
    return ", ".join(shipped_controls()) or "none"


def _share_equal(loaded: control.ControlNet, unet: torch.nn.Module) -> None:
    """Lets go of every tensor that the base has too, number for number."""
    twins = dict(unet.named_parameters())
    pages = FilePages()
    for name, parameter in loaded.named_parameters():
        twin = twins.get(name)
        if twin is None or (twin.shape, twin.dtype, twin.device) != (
            parameter.shape,
            parameter.dtype,
            parameter.device,
        ):
            continue
        if torch.equal(parameter, twin):
            pages.give_back(parameter)
            parameter.data = twin.data
