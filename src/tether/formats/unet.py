"""The denoiser's and the ControlNet's tensors in both layouts.

    original                        diffusers
    time_embed.0, .2                time_embedding.linear_1, .linear_2
    label_emb.0.0, .0.2             add_embedding.linear_1, .linear_2          (SDXL)
    encoder_pooling.0, .1, .2, .3   add_embedding.norm1, .pool, .proj, .norm2  (the shipped base)
    input_blocks.0.0                conv_in
    input_blocks.K.0, .1            down_blocks.I.resnets.J, .attentions.J     K = 1 + I (layers + 1) + J
    input_blocks.K.0.op             down_blocks.I.downsamplers.0.conv          J = layers
    middle_block.0, .1, .2          mid_block.resnets.0, .attentions.0, .resnets.1
    output_blocks.K.0, .1           up_blocks.I.resnets.J, .attentions.J       K = I (layers + 1) + J
    output_blocks.K.N.conv          up_blocks.I.upsamplers.0.conv              J = layers; N = 1, 2 after a transformer
    out.0, .2                       conv_norm_out, conv_out
    zero_convs.K.0                  controlnet_down_blocks.K
    middle_block_out.0              controlnet_mid_block
    input_hint_block.0, .2 ... .N   controlnet_cond_embedding.conv_in, .blocks.0 ..., .conv_out

The parts of a residual layer have different names too (`RESIDUAL_PARTS`); those of a transformer have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tether.formats.names import Pair
from tether.formats.shape import EncoderShape

__all__ = ["control_pairs", "unet_pairs"]

RESIDUAL_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _modules(shape: EncoderShape) -> Iterator[tuple[str, str]]:
    """(diffusers, original) prefixes of the modules that denoiser and ControlNet share."""
    yield "time_embedding.linear_1.", "time_embed.0."
    yield "time_embedding.linear_2.", "time_embed.2."
    yield "add_embedding.linear_1.", "label_emb.0.0."
    yield "add_embedding.linear_2.", "label_emb.0.2."
    for k, part in enumerate(("norm1", "pool", "proj", "norm2")):
        yield f"add_embedding.{part}.", f"encoder_pooling.{k}."
    yield "conv_in.", "input_blocks.0.0."
    for i in range(len(shape.channels)):
        for j in range(shape.layers):
            block = f"input_blocks.{1 + i * (shape.layers + 1) + j}"
            yield f"down_blocks.{i}.resnets.{j}.", f"{block}.0."
            yield f"down_blocks.{i}.attentions.{j}.", f"{block}.1."
        yield f"down_blocks.{i}.downsamplers.0.conv.", f"input_blocks.{(i + 1) * (shape.layers + 1)}.0.op."
    yield "mid_block.resnets.0.", "middle_block.0."
    yield "mid_block.attentions.0.", "middle_block.1."
    yield "mid_block.resnets.1.", "middle_block.2."


def _decoder_modules(shape: EncoderShape) -> Iterator[tuple[str, str]]:
    for i, depth in enumerate(reversed(shape.depths)):
        for j in range(shape.layers + 1):
            block = f"output_blocks.{i * (shape.layers + 1) + j}"
            yield f"up_blocks.{i}.resnets.{j}.", f"{block}.0."
            yield f"up_blocks.{i}.attentions.{j}.", f"{block}.1."
        last = f"output_blocks.{i * (shape.layers + 1) + shape.layers}"
        yield f"up_blocks.{i}.upsamplers.0.conv.", f"{last}.{2 if depth else 1}.conv."
    yield "conv_norm_out.", "out.0."
    yield "conv_out.", "out.2."


def _control_modules(shape: EncoderShape, hint_blocks: int) -> Iterator[tuple[str, str]]:
    for k in range(len(shape.channels) * (shape.layers + 1)):
        yield f"controlnet_down_blocks.{k}.", f"zero_convs.{k}.0."
    yield "controlnet_mid_block.", "middle_block_out.0."
    yield "controlnet_cond_embedding.conv_in.", "input_hint_block.0."
    for k in range(hint_blocks):
        yield f"controlnet_cond_embedding.blocks.{k}.", f"input_hint_block.{2 * (k + 1)}."
    yield "controlnet_cond_embedding.conv_out.", f"input_hint_block.{2 * (hint_blocks + 1)}."


def unet_pairs(shape: EncoderShape, names: Iterable[str]) -> list[Pair]:
    """The pairs for a denoiser.

    Args:
        shape: its encoder's.
        names: diffusers' names of its tensors.
    """
    return _pairs([*_modules(shape), *_decoder_modules(shape)], names)


def control_pairs(shape: EncoderShape, names: Iterable[str]) -> list[Pair]:
    """The pairs for a ControlNet; as `unet_pairs`."""
    names = list(names)
    blocks = sum(name.startswith("controlnet_cond_embedding.blocks.") and name.endswith(".weight") for name in names)
    return _pairs([*_modules(shape), *_control_modules(shape, blocks)], names)


def _pairs(modules: list[tuple[str, str]], names: Iterable[str]) -> list[Pair]:
    original = dict(modules)
    pairs = []
    for name in names:
        # The longest prefix that is a module: "down_blocks.0.resnets.1." of "down_blocks.0.resnets.1.norm1.weight".
        cuts = [k + 1 for k, letter in enumerate(name) if letter == "."]
        cut = next((cut for cut in reversed(cuts) if name[:cut] in original), None)
        if cut is None:
            continue
        part, _, parameter = name[cut:].rpartition(".")
        inner = RESIDUAL_PARTS.get(part, part) if ".resnets." in name[:cut] else part
        pairs.append(Pair(original[name[:cut]] + (f"{inner}." if inner else "") + parameter, (name,)))
    return pairs
