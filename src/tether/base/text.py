"""Prompts -> the text states that the denoiser attends to.

A prompt is cut into chunks of the window less two tokens (75 for CLIP), each one framed by start and end and padded;
the chunks' states, `(B, T, D)` each, are laid side by side. `(words:1.2)` weighs words: their states are multiplied by
the weight and the whole is scaled back to the mean it had, as people know it from the web interfaces.
Only `(text:number)` is syntax; every other bracket is a character like any other. A backslash takes the meaning away.

SDXL has two encoders: the states are both encoders' second-to-last layers side by side, and the pooled state is
the second encoder's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.control.conditioning import Conditioning
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.base.base import Base

__all__ = ["encode_prompts", "parse_weights", "text_window"]

WEIGHTED = re.compile(r"(?<!\\)\(([^()]*):\s*([0-9]*\.?[0-9]+)\s*\)")
MAX_CHUNKS = 16


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Splits a prompt into runs of words and weights: "a (red:1.3) cat" -> [("a ", 1), ("red", 1.3), (" cat", 1)].

    `\(` and `\)` are plain brackets.
    """
    pieces, end = [], 0
    for match in WEIGHTED.finditer(prompt):
        pieces += [(prompt[end : match.start()], 1.0), (match[1], float(match[2]))]
        end = match.end()
    pieces.append((prompt[end:], 1.0))
    plain = [(re.sub(r"\\([()])", r"\1", text), weight) for text, weight in pieces if text]
    return plain or [("", 1.0)]


def _chunks(tokenizer: Any, window: int, prompt: str) -> list[tuple[list[int], list[float]]]:
    """Token ids and weights of each chunk, framed and padded to the window's length."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in parse_weights(prompt):
        piece = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        ids += piece
        weights += [weight] * len(piece)
    room = window - 2
    count = max(1, -(-len(ids) // room))
    if count > MAX_CHUNKS:
        raise TetherError(f"the prompt has {len(ids)} tokens: at most {MAX_CHUNKS * room} fit, shorten it")
    chunks = []
    for start in range(0, count * room, room):
        words, shares = ids[start : start + room], weights[start : start + room]
        padding = room - len(words)
        chunks.append(
            (
                [tokenizer.bos_token_id, *words, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding],
                [1.0, *shares, 1.0, *[1.0] * padding],
            )
        )
    return chunks


def _encode_with(
    encoder: Any,
    chunked: list[list[tuple[list[int], list[float]]]],
    layer: int | None,
    final_norm: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """States `(B, T, D)` of one encoder, and the first chunks' projected states `(B, P)` where it has a projection.

    `layer` None takes the last hidden states, normed; -k the k-th hidden states from the end, normed or bare.
    """
    rows = [ids for chunks in chunked for ids, _ in chunks]
    shares = [weights for chunks in chunked for _, weights in chunks]
    output = encoder(torch.tensor(rows, device=device), output_hidden_states=layer is not None)
    states = output.last_hidden_state if layer is None else output.hidden_states[layer]
    if layer is not None and final_norm:
        states = encoder.final_layer_norm(states)
    weight = torch.tensor(shares, device=states.device, dtype=states.dtype)
    if bool((weight != 1).any()):
        before = states.mean(dim=(1, 2), keepdim=True)
        states = states * weight.unsqueeze(-1)
        states = states * (before / states.mean(dim=(1, 2), keepdim=True))
    pooled = getattr(output, "text_embeds", None)
    states = states.reshape(len(chunked), -1, states.shape[-1])
    return states, None if pooled is None else pooled[:: len(chunked[0])]


@torch.no_grad()
def encode_prompts(base: Base, prompts: list[str], clip_skip: int = 0) -> Conditioning:
    """Encodes prompts with a base's text encoder (both of them for SDXL).

    All prompts get as many chunks as the longest needs, so encode both sides of guidance in one call.

    Args:
        base: the base.
        prompts: B prompts; "" is the empty prompt of classifier-free guidance.
        clip_skip: how many of the text encoder's last layers to leave out, from 0 on; one layer is left at least.

    Returns:
        States `(B, chunks * T, D)` on the base's device and in its dtype.

    Raises:
        TetherError: when a prompt needs more than 16 chunks, or no layers would be left.
    """
    _check_clip_skip(base, clip_skip)
    if base.text_encoder_2 is None:
        layer = None if clip_skip == 0 else -1 - clip_skip
        chunks = _all_chunks(base.tokenizer, base.text_encoder, prompts)
        states, _ = _encode_with(base.text_encoder, chunks, layer, True, base.device)
        return Conditioning(states.to(base.dtype))
    layer = -2 - clip_skip
    pairs = (base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)
    (first, _), (second, pooled) = (
        _encode_with(encoder, _all_chunks(tokenizer, encoder, prompts), layer, False, base.device)
        for tokenizer, encoder in pairs
    )
    return Conditioning(torch.cat([first, second], dim=-1).to(base.dtype), pooled)


def _check_clip_skip(base: Base, clip_skip: int) -> None:
    most = base.text_encoder.config.num_hidden_layers - 1
    if base.text_encoder_2 is not None:  # SDXL leaves the last layer out as it is
        most = min(most, base.text_encoder_2.config.num_hidden_layers - 1) - 1
    if not 0 <= clip_skip <= most:
        raise TetherError(f"clip_skip must be from 0 to {most} for {base.name}, not {clip_skip}")


def text_window(tokenizer: Any, encoder: Any) -> int:
    """How many tokens a text encoder takes at once. Some tokenizers do not say: the encoder does."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _all_chunks(tokenizer: Any, encoder: Any, prompts: list[str]) -> list[list[tuple[list[int], list[float]]]]:
    """The chunks of each prompt, padded with empty ones to the same count."""
    window = text_window(tokenizer, encoder)
    chunked = [_chunks(tokenizer, window, prompt) for prompt in prompts]
    count = max(len(chunks) for chunks in chunked)
    empty = _chunks(tokenizer, window, "")
    return [chunks + empty * (count - len(chunks)) for chunks in chunked]
