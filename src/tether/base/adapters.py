"""Small files that change a base in place: LoRA and textual-inversion embeddings."""

from tether.base.embedding import add_embedding
from tether.base.lora import add_lora
from tether.base.words import MultiwordTokenizer

__all__ = ["MultiwordTokenizer", "add_embedding", "add_lora"]
