"""Tensors in a file that no network uses: which are left out, and which change what the others mean.

Trainers, mergers and programs that save what they have in memory leave tensors behind. Outside of the networks they
are left out, with a note. A mark that says that the weights are something else (scaled 8-bit numbers, another noise
schedule) refuses the file, as does a tensor too many inside of a network, which would be another architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.formats.families import UNET

__all__ = ["check_marks", "left_out_words", "split_strays", "unwrapped"]

MARKS = (
    (
        r"(^|\.)scaled_fp8$|\.(scale_weight|scale_input|weight_scale|input_scale|comfy_quant)$",
        "8-bit weights with scales",
    ),
    (r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)$|\.qweight$|\.qzeros$", "quantized weights"),
    (r"(^|\.)edm_(vpred|mean|std)\b", "EDM's noise schedule"),
    (r"(^|\.)lora_controlnet$", "a Control-LoRA"),
    (r"^(depth_model|low_scale_model|noise_augmentor)\.", "a network of another kind of model"),
)
"""Pattern of a tensor's name -> what it says about the others."""

ANCHORS = (
    f"{UNET}input_blocks.0.0.weight",
    "control_model.input_hint_block.0.weight",
    "input_hint_block.0.weight",
    "controlnet_cond_embedding.conv_in.weight",
)
"""A tensor that each supported file has, without what wraps its names."""


def unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without a prefix that a program put before all names: "module.", "model.", "controlnet.", ..."""
    names = checkpoint.tensors
    for anchor in ANCHORS:
        if anchor in names:
            return checkpoint
        wrapped = next((name for name in names if name.endswith(f".{anchor}")), None)
        if wrapped is None:
            continue
        prefix = wrapped.removesuffix(anchor)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
        return checkpoint if len(tensors) < len(names) else replace(checkpoint, tensors=tensors)
    return checkpoint


def check_marks(names: Iterable[str], what: str) -> None:
    """Refuses names that change the meaning of the other tensors.

    Raises:
        TetherError: naming the first.
    """
    for name in names:
        for pattern, words in MARKS:
            if re.search(pattern, name):
                raise TetherError(f"{what} has {words} ({name}), which is not supported: use a file without")


def split_strays(names: Iterable[str], expected: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that a network does not have: those outside of its modules, and those inside of them.

    Args:
        names: of a file's tensors.
        expected: of the network's, which begin with the names of its modules.
    """
    known = set(expected)
    modules = {name.partition(".")[0] for name in known}
    strange = [name for name in names if name not in known]
    inside = [name for name in strange if name.partition(".")[0] in modules]
    return [name for name in strange if name not in set(inside)], inside


def left_out_words(names: list[str]) -> str:
    """A note about tensors that were left out: "left out: 2 tensors that no network uses (train_loss, x.y)"."""
    count = "1 tensor" if len(names) == 1 else f"{len(names):,} tensors"
    return f"left out: {count} that no network uses ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
