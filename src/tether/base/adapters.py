"""Small files that change a base in place: LoRA and textual-inversion embeddings."""

from tether.base.embedding import add_embedding
from tether.base.lora import add_lora
from tether.base.peer import diffusers_pipeline as _pipeline  # by its former name
from tether.base.words import MultiwordTokenizer

__all__ = ["MultiwordTokenizer", "_pipeline", "add_embedding", "add_lora"]
