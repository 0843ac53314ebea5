"""Controls on disk: the shipped ones and diffusers folders, opened, checked against a base, and written.

The network is `tether.control.ControlNet`; this subclass adds files and names to it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tether import control
from tether.errors import TetherError
from tether.weights import shipped, shipped_controls

if TYPE_CHECKING:
    from tether.base.base import Base

__all__ = ["ControlNet"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
NOTES = "tether.json"


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
        cls, ref: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Self:
        """Opens a control, ready for inference.

        Args:
            ref: the kind of a shipped control ("canny"), or the path of a diffusers folder.
            dtype: what the weights are cast to.
            device: where they are put.

        Raises:
            TetherError: where there is nothing at `ref`, or no ControlNet.
        """
        folder = shipped(f"control-{ref}") if str(ref) in shipped_controls() else Path(ref)
        if not folder.is_dir():
            known = ", ".join(shipped_controls()) or "none"
            raise TetherError(f"no control at {ref}: give a diffusers folder, or a shipped kind ({known})")
        try:
            config = json.loads((folder / "config.json").read_text())
            tensors = load_file(folder / WEIGHTS)
            with torch.device("meta"):
                loaded = cls.from_config(config)
            loaded.load_state_dict({key: tensor.to(dtype) for key, tensor in tensors.items()}, assign=True)
        except FileNotFoundError as error:
            raise TetherError(f"{folder} is no diffusers ControlNet: it has no {Path(error.filename).name}") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            line = str(error).strip().splitlines()[0]
            raise TetherError(f"{folder} does not open as a ControlNet: {line}") from None
        notes = _notes(folder)
        loaded.kind, loaded.name = notes.get("kind"), str(ref)
        return loaded.to(device).eval().requires_grad_(False)

    def save(self, path: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes a diffusers folder that `diffusers.ControlNetModel.from_pretrained` opens; all of it or nothing.

        Args:
            path: the folder; one that is there is replaced as a whole.
            dtype: what the weights are cast to; as they are when left out.

        Raises:
            TetherError: when it cannot be written.
        """
        path = Path(path)
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.state_dict().items()}
            if dtype is not None:
                tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
            save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
            config = {**self.config, "_class_name": "ControlNetModel"}
            (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            if self.kind is not None:
                (part / NOTES).write_text(json.dumps({"kind": self.kind}) + "\n")
            part.chmod(0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                os.replace(path, old / "was")
                os.replace(part, path)
                shutil.rmtree(old)
            else:
                os.replace(part, path)
        except (OSError, SafetensorError) as error:
            raise TetherError(f"{path} cannot be written: {error}") from None
        finally:
            if part is not None and part.exists():
                shutil.rmtree(part, ignore_errors=True)

    def check_fits(self, base: Base) -> None:
        """Refuses a base that this control was not made for.

        Raises:
            TetherError: naming both, for example "canny has 768-wide text states (SD 1.x), the base sd21 1024 (SD 2.x)".
        """
        ours, theirs = self.config, base.unet.config
        widths = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
        width, wanted = ours["cross_attention_dim"], theirs["cross_attention_dim"]
        if width != wanted:
            said = [f"{w}-wide text states" + (f" ({widths[w]})" if w in widths else "") for w in (width, wanted)]
            raise TetherError(f"control {self.name} has {said[0]}, the base {base.name} {said[1]}: they do not fit")
        channels, wanted_channels = list(ours["block_out_channels"]), list(theirs["block_out_channels"])
        if channels != wanted_channels or ours["layers_per_block"] != theirs["layers_per_block"]:
            raise TetherError(
                f"control {self.name} has blocks of {channels} channels, the base {base.name} of {wanted_channels}: "
                "they do not fit"
            )


def _notes(folder: Path) -> dict[str, Any]:
    try:
        notes = json.loads((folder / NOTES).read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
