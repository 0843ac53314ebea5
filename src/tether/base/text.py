"""Prompts -> text states, which the denoiser attends to.

A prompt is split into chunks that fit the text encoder's window (75 tokens of CLIP's 77, two frame them). Each chunk is
framed, padded and encoded to `(B, T, D)`, and the chunks' states are concatenated along T. `(words:1.2)` weights words:
their states are multiplied by the weight, and the chunk is scaled back to its mean, as web interfaces do. Only
`(text:number)` is syntax; a backslash makes a parenthesis literal.

`TextEncoders` holds the text encoders of a base, each with its tokenizer:

    one CLIP (SD 1.x, 2.x)    last hidden states, normalized
    two CLIPs (SDXL)          second-to-last hidden states of both, concatenated along D; pooled states of the second
    one T5                    last hidden states; padding is masked; no pooled states
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tether.control.conditioning import Conditioning
from tether.errors import TetherError

__all__ = ["TextEncoder", "TextEncoders", "parse_weights"]

WEIGHTED = re.compile(r"(?<!\\)\(([^()]*):\s*([0-9]*\.?[0-9]+)\s*\)")
MAX_CHUNKS = 16
T5_WINDOW = 512
"""Tokens that T5 was trained on, for tokenizers that set no length; T5 itself takes any."""


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Splits a prompt by weight: "a (red:1.3) cat" -> [("a ", 1), ("red", 1.3), (" cat", 1)].

    `\(` and `\)` are literal parentheses.
    """
    pieces, end = [], 0
    for match in WEIGHTED.finditer(prompt):
        pieces += [(prompt[end : match.start()], 1.0), (match[1], float(match[2]))]
        end = match.end()
    pieces.append((prompt[end:], 1.0))
    plain = [(re.sub(r"\\([()])", r"\1", text), weight) for text, weight in pieces if text]
    return plain or [("", 1.0)]


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt that fills the window of a text encoder.

    Attributes:
        ids: token ids, framed and padded, as many as the window has.
        weights: the weight of each.
        used: how many come before the padding.
    """

    ids: list[int]
    weights: list[float]
    used: int


@dataclass
class TextEncoder:
    """A text encoder of transformers and its tokenizer.

    Attributes:
        tokenizer: the tokenizer; its special tokens frame each chunk.
        encoder: a CLIP text model, with or without projection, or the encoder of a T5.
    """

    tokenizer: Any
    encoder: Any

    @property
    def window(self) -> int:
        """Tokens of a chunk: the smaller of the tokenizer's and the encoder's limits."""
        # transformers writes 1e30 for a tokenizer without a limit, and T5 has relative positions of any distance.
        limit = getattr(self.encoder.config, "max_position_embeddings", None)
        if limit is None:
            limit = T5_WINDOW if self.tokenizer.model_max_length > 10**9 else self.tokenizer.model_max_length
        return min(self.tokenizer.model_max_length, limit)

    @property
    def layers(self) -> int:
        return self.encoder.config.num_hidden_layers

    @property
    def masks_padding(self) -> bool:
        """Whether padding is hidden from attention, as for T5; CLIP attends causally, and denoisers see its padding."""
        return self.encoder.config.model_type in ("t5", "umt5", "mt5")

    def chunks(self, prompt: str) -> list[Chunk]:
        """The chunks of a prompt, one at least.

        Raises:
            TetherError: if there are more than 16.
        """
        tokenizer = self.tokenizer
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in parse_weights(prompt):
            piece = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            ids += piece
            weights += [weight] * len(piece)
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        room = self.window - len(start) - 1
        count = max(1, -(-len(ids) // room))
        if count > MAX_CHUNKS:
            raise TetherError(
                f"the prompt has {len(ids)} tokens, at most {MAX_CHUNKS * room} are supported: shorten it"
            )
        chunks = []
        for first in range(0, count * room, room):
            inner, shares = ids[first : first + room], weights[first : first + room]
            padding = room - len(inner)
            chunks.append(
                Chunk(
                    [*start, *inner, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding],
                    [*[1.0] * len(start), *shares, 1.0, *[1.0] * padding],
                    self.window - padding,
                )
            )
        return chunks

    def encode(
        self, chunked: list[list[Chunk]], layer: int | None, final_norm: bool, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """States `(B, chunks * T, D)`, and the first chunks' projected states `(B, P)` if it has a projection.

        Args:
            chunked: the chunks of B prompts, the same number for each.
            layer: None for the last hidden states; -k for the k-th from the end.
            final_norm: apply the final norm to the states of a layer; the last ones have it always.
            device: where the encoder computes.
        """
        rows = [chunk for chunks in chunked for chunk in chunks]
        masked: dict[str, Tensor] = {}
        if self.masks_padding:
            places = torch.arange(self.window, device=device)
            masked["attention_mask"] = (places < torch.tensor([[chunk.used] for chunk in rows], device=device)).long()
        ids = torch.tensor([chunk.ids for chunk in rows], device=device)
        output = self.encoder(ids, output_hidden_states=layer is not None, **masked)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        if layer is not None and final_norm:
            norm = getattr(self.encoder, "final_layer_norm", None) or self.encoder.encoder.final_layer_norm
            states = norm(states)
        weight = torch.tensor([chunk.weights for chunk in rows], device=states.device, dtype=states.dtype)
        if bool((weight != 1).any()):
            before = states.mean(dim=(1, 2), keepdim=True)
            states = states * weight.unsqueeze(-1)
            states = states * (before / states.mean(dim=(1, 2), keepdim=True))
        pooled = getattr(output, "text_embeds", None)
        states = states.reshape(len(chunked), -1, states.shape[-1])
        return states, None if pooled is None else pooled[:: len(chunked[0])]


class TextEncoders:
    """The text encoders of a base.

    Args:
        *pairs: (tokenizer, encoder), in the order in which their states are concatenated.

    Attributes:
        parts: a `TextEncoder` for each pair. Tokenizers and encoders may be replaced in place.
    """

    def __init__(self, *pairs: tuple[Any, Any]) -> None:
        self.parts = [TextEncoder(tokenizer, encoder) for tokenizer, encoder in pairs]

    @property
    def networks(self) -> list[nn.Module]:
        return [part.encoder for part in self.parts]

    @property
    def window(self) -> int:
        """Tokens of a chunk, the two that frame it included."""
        return min(part.window for part in self.parts)

    @torch.no_grad()
    def encode(
        self, prompts: list[str], clip_skip: int = 0, *, device: torch.device | str | None = None
    ) -> Conditioning:
        """Encodes prompts.

        All prompts get as many chunks as the longest needs, so encode both CFG branches in one call.

        Args:
            prompts: B prompts; "" is the empty prompt of classifier-free guidance.
            clip_skip: how many of the last layers to leave out, from 0; at least one layer is kept.
            device: where the encoders compute; their own device by default.

        Returns:
            Tokens `(B, chunks * T, D)`, and pooled states `(B, P)` if there are several encoders.

        Raises:
            TetherError: if a prompt needs more than 16 chunks, or `clip_skip` leaves no layer.
        """
        several = len(self.parts) > 1
        if several and any(part.masks_padding for part in self.parts):
            raise TetherError("text encoders of CLIP and T5 in one base are not supported yet")
        self._check_clip_skip(clip_skip, several)
        device = torch.device(device or self.parts[0].encoder.device)
        layer = -2 - clip_skip if several else None if clip_skip == 0 else -1 - clip_skip
        chunked = [[part.chunks(prompt) for prompt in prompts] for part in self.parts]
        count = max(len(chunks) for each in chunked for chunks in each)
        encoded = []
        for part, each in zip(self.parts, chunked, strict=True):
            filled = [chunks + part.chunks("") * (count - len(chunks)) for chunks in each]
            encoded.append(part.encode(filled, layer, not several, device))
        if not several:
            return Conditioning(encoded[0][0])
        return Conditioning(torch.cat([states for states, _ in encoded], dim=-1), encoded[-1][1])

    def _check_clip_skip(self, clip_skip: int, several: bool) -> None:
        most = min(part.layers for part in self.parts) - (2 if several else 1)  # SDXL leaves the last layer out itself
        if not 0 <= clip_skip <= most:
            raise TetherError(f"clip_skip must be from 0 to {most} for this base, not {clip_skip}")
