"""Identifies encoders: a SHA-256 that changes with any of their weights, settings or vocabulary."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from tether.base import Base
from tether.files.hashing import add_tensors

__all__ = ["hash_text_encoders", "hash_vae"]

_IGNORED = ("torch_dtype", "dtype", "transformers_version")


def hash_vae(base: Base) -> str:
    """SHA-256 of the autoencoder's weights and settings (`scaling_factor`, ...)."""
    return _hash([base.vae])


def hash_text_encoders(base: Base) -> str:
    """SHA-256 of the text encoders' weights and settings and of their tokenizers."""
    parts = [base.text_encoder, base.tokenizer, base.text_encoder_2, base.tokenizer_2]
    return _hash([part for part in parts if part is not None])


def _hash(parts: list[Any]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            _add_module(sha, part)
        else:
            _add_tokenizer(sha, part)
    return sha.hexdigest()


def _add_module(sha: Any, module: nn.Module) -> None:
    config: Any = module.config
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # Paths and library versions do not change what the weights compute.
    kept = {name: value for name, value in plain.items() if not name.startswith("_") and name not in _IGNORED}
    sha.update(json.dumps(kept, sort_keys=True, default=str).encode())
    add_tensors(sha, sorted(module.state_dict().items()))


def _add_tokenizer(sha: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length]
    sha.update(words.encode())
    sha.update(json.dumps(ids).encode())
