"""Textual-inversion embeddings (arXiv:2208.01618): words that are rows of a text encoder's embedding table.

An embedding is one row or several. Its word is written once in the prompt and read as all of them, see
`tether.base.words`; chunks of a long prompt are never cut inside of one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tether.base.adapter_file import open_adapter
from tether.base.base import Base
from tether.base.words import MultiwordTokenizer
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.files.materialize import cast

__all__ = ["add_embedding"]


def add_embedding(base: Base, ref: str | Path, token: str | None = None) -> str:
    """Adds the token of a textual-inversion embedding to a base, and returns the token.

    Args:
        base: changed in place; what changes are new tensors and a new tokenizer.
        ref: a file of any trainer, or a name on the hub.
        token: the word to write in prompts, which may be one of the vocabulary; the one in the file by default, or else
            the file's name in angle brackets.

    Raises:
        TetherError: if the file is damaged, not an embedding, made for another kind of base, or the token was added
            before.
    """
    checkpoint = open_adapter(ref, "embedding")
    rows, own = _rows(base, checkpoint)
    token = token or own or f"<{re.sub(r'[^a-z0-9-]+', '-', checkpoint.path.stem.lower())}>"
    if not token.strip():
        raise TetherError(f"{checkpoint.path}: the token is empty: pass another one as token=")
    names = [encoder.replace("text_encoder", "tokenizer") for encoder, _ in rows]
    if any(token.lower() in {word.lower() for word in _words(getattr(base, name))} for name in names):
        raise TetherError(f"{checkpoint.path}: the token {token} already exists: pass another one as token=")
    for name, (encoder, row) in zip(names, rows, strict=True):
        ids = _add_rows(getattr(base, encoder), row)
        tokenizer = getattr(base, name)
        inner = tokenizer.tokenizer if isinstance(tokenizer, MultiwordTokenizer) else tokenizer
        setattr(base, name, MultiwordTokenizer(inner, {**_words(tokenizer), token: ids}))
    return token


def _words(tokenizer: Any) -> dict[str, list[int]]:
    return tokenizer.words if isinstance(tokenizer, MultiwordTokenizer) else {}


def _add_rows(encoder: Any, rows: Tensor) -> list[int]:
    """Appends rows `(N, D)` to an encoder's embedding table, and returns their token ids."""
    first = len(encoder.get_input_embeddings().weight)
    encoder.resize_token_embeddings(first + len(rows), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[first:] = rows.to(table.device, table.dtype)
    encoder.requires_grad_(False)
    return list(range(first, first + len(rows)))


def _rows(base: Base, checkpoint: Checkpoint) -> tuple[list[tuple[str, Tensor]], str | None]:
    """(encoder, rows `(N, D)`) for each text encoder, and the token in the file."""
    tensors = checkpoint.tensors
    if "clip_l" in tensors and "clip_g" in tensors:
        found, own = [("text_encoder", tensors["clip_l"]), ("text_encoder_2", tensors["clip_g"])], None
    elif len(tensors) == 1:
        name, tensor = next(iter(tensors.items()))
        found, own = [("text_encoder", tensor)], None if name in ("*", "emb_params") else name
    else:
        raise TetherError(
            f"{checkpoint.path} is not an embedding: expected one tensor (SDXL: two), found {len(tensors)}"
        )
    if ("text_encoder_2" in dict(found)) != (base.text_encoder_2 is not None):
        wanted = "two text encoders" if base.text_encoder_2 is not None else "one text encoder"
        raise TetherError(f"{checkpoint.path} does not fit the base {base.name}, which has {wanted}")
    rows = []
    for encoder, tensor in found:
        width = getattr(base, encoder).config.hidden_size
        tensor = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
        if tensor.shape[-1] != width:
            raise TetherError(
                f"{checkpoint.path} has {tensor.shape[-1]}-wide embeddings, the base {base.name} {width}-wide ones: "
                "use an embedding made for this kind of base"
            )
        rows.append((encoder, cast(tensor, torch.float32, encoder, str(checkpoint.path))))
    return rows, own
