"""Small files that change a base: LoRA (arXiv:2106.09685) and textual-inversion embeddings (arXiv:2208.01618).

LoRA adds a product of two low-rank matrices to a weight, W + s B A. It is read by diffusers and peft, which know the
names of all trainers, and fused into the weights, so the base is as fast as before.

Textual inversion adds a token: one or several rows of a text encoder's embedding table. A token with several rows is
written once in the prompt, and read as all of them.
"""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from tether.base.base import Base
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.hub import find
from tether.files.materialize import cast

__all__ = ["MultiwordTokenizer", "add_embedding", "add_lora"]

logger = logging.getLogger(__name__)

_FIRST_MATRIX = re.compile(r"lora\w*[._](A|down)\b")  # A of B A, once per layer, under any trainer's name


def add_lora(base: Base, ref: str | Path, strength: float = 1.0) -> None:
    """Fuses a LoRA into a base's weights: W + strength * B A, scaled as its file specifies.

    Load controls after it: a control that shares the base's weights would change too. If layers of the file do not
    exist in the base, a warning says how many.

    Args:
        base: changed in place.
        ref: a file (diffusers' or kohya's names), or a name on the hub ("owner/name/file.safetensors").
        strength: 1 is the strength of its training; -1 after 1 removes it again, up to rounding.

    Raises:
        TetherError: if peft is not installed, or the file is damaged, not a LoRA, or made for another kind of base.
    """
    if find_spec("peft") is None:
        raise TetherError("loading a LoRA needs peft: pip install 'tether-control[lora]'")
    checkpoint = _open(ref, "LoRA")
    if not any("lora" in name.lower() for name in checkpoint.tensors):
        raise TetherError(
            f"{checkpoint.path} contains no LoRA weights: none of its {len(checkpoint.tensors)} tensors has 'lora' in "
            "its name"
        )
    tensors = {
        name: cast(tensor, base.dtype, name, str(checkpoint.path)) for name, tensor in checkpoint.tensors.items()
    }
    pipeline = _pipeline(base)
    try:
        pipeline.load_lora_weights(tensors)
        if not pipeline.get_list_adapters():
            raise ValueError("none of its tensors belong to this kind of base")
        _warn_of_layers_left_out(base, checkpoint)
        pipeline.fuse_lora(lora_scale=strength, safe_fusing=True)  # new tensors: a copy may share the old
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise TetherError(f"{checkpoint.path} does not fit the base {base.name}: {line[:200]}") from None
    finally:
        pipeline.unload_lora_weights()
        for module in base.modules():
            module.requires_grad_(False).eval()


def add_embedding(base: Base, ref: str | Path, token: str | None = None) -> str:
    """Adds the token of a textual-inversion embedding to a base, and returns the token.

    Args:
        base: changed in place.
        ref: a file of any trainer, or a name on the hub.
        token: the token to write in prompts; the one in the file by default, or else the file's name in angle brackets.

    Raises:
        TetherError: if the file is damaged, not an embedding, made for another kind of base, or the token exists.
    """
    checkpoint = _open(ref, "embedding")
    rows, own = _rows(base, checkpoint)
    token = token or own or f"<{re.sub(r'[^a-z0-9-]+', '-', checkpoint.path.stem.lower())}>"
    for encoder, row in rows:
        name = encoder.replace("text_encoder", "tokenizer")
        setattr(base, name, _add_words(getattr(base, name), getattr(base, encoder), token, row, str(checkpoint.path)))
    return token


class MultiwordTokenizer:
    """A tokenizer in which some words are several tokens of the vocabulary; otherwise the tokenizer inside."""

    def __init__(self, tokenizer: Any, words: dict[str, list[str]]) -> None:
        self.tokenizer = tokenizer
        self.words = words

    def __call__(self, text: str | list[str], *args: Any, **options: Any) -> Any:
        """Tokenizes, with each word replaced by its tokens."""
        one = isinstance(text, str)
        texts = [text] if one else list(text)
        for word, entries in self.words.items():
            texts = [part.replace(word, " ".join(entries)) for part in texts]
        return self.tokenizer(texts[0] if one else texts, *args, **options)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def _open(ref: str | Path, what: str) -> Checkpoint:
    path = find(ref, what, any_file=True)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if len(files) != 1:
            raise TetherError(f"{ref} contains {len(files)} files that may be the {what}: name one of them")
        path = files[0]
    return open_checkpoint(path)


def _pipeline(base: Base) -> Any:
    """diffusers' pipeline around the base's networks, for its loaders."""
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": DDIMScheduler(),
    }
    if base.text_encoder_2 is None:
        return StableDiffusionPipeline(
            **parts,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    parts |= {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2}
    return StableDiffusionXLPipeline(**parts)


def _warn_of_layers_left_out(base: Base, checkpoint: Checkpoint) -> None:
    held = sum(_FIRST_MATRIX.search(name) is not None for name in checkpoint.tensors)
    taken = sum(hasattr(module, "lora_A") for network in base.modules() for module in network.modules())
    if taken < held:
        logger.warning("%s: only %d of its %d layers exist in %s", checkpoint.path, taken, held, base.name)


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


def _add_words(tokenizer: Any, encoder: Any, token: str, rows: Tensor, what: str) -> Any:
    entries = [token, *(f"{token}_{k}" for k in range(1, len(rows)))]
    inner = tokenizer.tokenizer if isinstance(tokenizer, MultiwordTokenizer) else tokenizer
    taken = [entry for entry in entries if entry in inner.get_vocab()]
    if taken:
        raise TetherError(f"{what}: the token {taken[0]} already exists: pass another one as token=")
    inner.add_tokens(entries)
    encoder.resize_token_embeddings(len(inner), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[inner.convert_tokens_to_ids(entries)] = rows.to(table.device, table.dtype)
    encoder.requires_grad_(False)
    if len(entries) == 1:
        return tokenizer
    words = tokenizer.words if isinstance(tokenizer, MultiwordTokenizer) else {}
    return MultiwordTokenizer(inner, {**words, token: entries})
