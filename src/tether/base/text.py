"""Prompts -> text states, which the denoiser attends to.

A prompt is split into chunks that fit the text encoder's window (75 tokens of CLIP's 77, two frame them; see
`tether.base.chunks`). Each chunk is framed, padded and encoded to `(B, T, D)`, and the chunks' states are concatenated
along T. `tether.base.prompt_syntax` says how weights are written.

The weight w of a token moves its states z away from the states e of the empty prompt at the same place, or towards it:

    e + w (z - e)

That is what ComfyUI does by default. A token of weight 1 keeps its states exactly, and one of weight 0 is as if nothing
were written there. AUTOMATIC1111 multiplies z by w and then all states of the chunk by the ratio of their means before
and after; for encoders whose mean is near zero (SDXL's second) that ratio can be anything, negative too. The "simple"
syntax still does, so that images made with it can be repeated.

`TextEncoders` holds the text encoders of a base, each with its tokenizer:

    one CLIP (SD 1.x, 2.x)    last hidden states, normalized
    two CLIPs (SDXL)          second-to-last hidden states of both, concatenated along D; pooled states of the second
    one T5                    last hidden states; padding is masked; no pooled states
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tether.base.chunks import Chunk, cut
from tether.base.prompt_syntax import PromptSyntax, parse_weights
from tether.control.conditioning import Conditioning
from tether.errors import TetherError

__all__ = ["TextEncoder", "TextEncoders", "parse_weights"]

T5_WINDOW = 512
"""Tokens that T5 was trained on, for tokenizers that set no length; T5 itself takes any."""


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

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer, wherever a version of transformers has it."""
        for owner in (self.encoder, getattr(self.encoder, "text_model", None), getattr(self.encoder, "encoder", None)):
            norm = getattr(owner, "final_layer_norm", None)
            if norm is not None:
                return norm
        raise TetherError(f"{type(self.encoder).__name__} has no final norm: expected a CLIP or T5 text encoder")

    def chunks(self, prompt: str, syntax: PromptSyntax = "nested") -> list[Chunk]:
        """The chunks of a prompt, one at least.

        Raises:
            TetherError: as `tether.base.chunks.cut`.
        """
        return cut(self.tokenizer, self.window, prompt, syntax)

    def encode(
        self,
        chunked: list[list[Chunk]],
        layer: int | None,
        final_norm: bool,
        device: torch.device,
        syntax: PromptSyntax = "nested",
    ) -> tuple[Tensor, Tensor | None]:
        """States `(B, chunks * T, D)`, and the first chunks' projected states `(B, P)` if it has a projection.

        Args:
            chunked: the chunks of B prompts, the same number for each.
            layer: None for the last hidden states; -k for the k-th from the end.
            final_norm: apply the final norm to the states of a layer; the last ones have it always.
            device: where the encoder computes.
            syntax: "simple" applies weights as it did; see above.
        """
        rows = [chunk for chunks in chunked for chunk in chunks]
        states, pooled = self._states(rows, layer, final_norm, device)
        weight = torch.tensor([chunk.weights for chunk in rows], device=states.device, dtype=states.dtype)[..., None]
        if bool((weight != 1).any()):
            if syntax == "simple":
                before = states.mean(dim=(1, 2), keepdim=True)
                states = states * weight
                states = states * (before / states.mean(dim=(1, 2), keepdim=True))
            else:
                empty, _ = self._states(self.chunks(""), layer, final_norm, device)
                states = torch.where(weight == 1, states, empty + weight * (states - empty))
        states = states.reshape(len(chunked), -1, states.shape[-1])
        return states, None if pooled is None else pooled[:: len(chunked[0])]

    def _states(
        self, rows: list[Chunk], layer: int | None, final_norm: bool, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """States `(N, T, D)` of N chunks without their weights, and projected states `(N, P)`."""
        masked: dict[str, Tensor] = {}
        if self.masks_padding:
            places = torch.arange(self.window, device=device)
            masked["attention_mask"] = (places < torch.tensor([[chunk.used] for chunk in rows], device=device)).long()
        ids = torch.tensor([chunk.ids for chunk in rows], device=device)
        output = self.encoder(ids, output_hidden_states=layer is not None, **masked)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        if layer is not None and final_norm:
            states = self.final_norm(states)
        return states, getattr(output, "text_embeds", None)


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
        self,
        prompts: list[str],
        clip_skip: int = 0,
        *,
        device: torch.device | str | None = None,
        syntax: PromptSyntax = "nested",
    ) -> Conditioning:
        """Encodes prompts.

        All prompts get as many chunks as the longest needs, so encode both CFG branches in one call.

        Args:
            prompts: B prompts; "" is the empty prompt of classifier-free guidance.
            clip_skip: how many of the last layers to leave out, from 0; at least one layer is kept.
            device: where the encoders compute; their own device by default.
            syntax: how prompts are read; "plain" for captions.

        Returns:
            Tokens `(B, chunks * T, D)`, and pooled states `(B, P)` if there are several encoders.

        Raises:
            TetherError: if a prompt needs more than 16 chunks, has a weight out of range or names a LoRA, or
                `clip_skip` leaves no layer.
        """
        several = len(self.parts) > 1
        if several and any(part.masks_padding for part in self.parts):
            raise TetherError("text encoders of CLIP and T5 in one base are not supported yet")
        self._check_clip_skip(clip_skip, several)
        device = torch.device(device or self.parts[0].encoder.device)
        layer = -2 - clip_skip if several else None if clip_skip == 0 else -1 - clip_skip
        chunked = [[part.chunks(prompt, syntax) for prompt in prompts] for part in self.parts]
        count = max(len(chunks) for each in chunked for chunks in each)
        encoded = []
        for part, each in zip(self.parts, chunked, strict=True):
            filled = [chunks + part.chunks("") * (count - len(chunks)) for chunks in each]
            encoded.append(part.encode(filled, layer, not several, device, syntax))
        if not several:
            return Conditioning(encoded[0][0])
        return Conditioning(torch.cat([states for states, _ in encoded], dim=-1), encoded[-1][1])

    def _check_clip_skip(self, clip_skip: int, several: bool) -> None:
        most = min(part.layers for part in self.parts) - (2 if several else 1)  # SDXL leaves the last layer out itself
        if not 0 <= clip_skip <= most:
            raise TetherError(f"clip_skip must be from 0 to {most} for this base, not {clip_skip}")
