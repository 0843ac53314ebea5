"""The CLIP score with a tiny model of random weights: its definition, not its quality."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from tether.errors import TetherError
from tether.evaluation.clip import DEVIATION, MEAN, ClipScore
from tether.weights import shipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(shipped("base") / "tokenizer")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_it_is_the_cosine_of_the_two_embeddings(folder: Path) -> None:
    image, prompt = Image.new("RGB", (32, 32), (200, 30, 90)), "a red cube"
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    pixels = (torch.tensor([200, 30, 90]) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    with torch.no_grad():
        out = model(
            pixel_values=pixels[None, :, None, None].expand(1, 3, 32, 32), **tokenizer([prompt], return_tensors="pt")
        )
    cosine = float((out.image_embeds * out.text_embeds).sum())  # both have length 1
    assert ClipScore(folder)(image, prompt)["value"] == pytest.approx(100 * max(0, cosine), abs=1e-3)


def test_any_size_and_any_length_can_be_scored(folder: Path) -> None:
    score = ClipScore(folder)(Image.new("RGB", (50, 90)), "word " * 100)["value"]
    assert 0 <= score <= 100


def test_what_is_no_clip_model_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="no CLIP model can be opened") as caught:
        ClipScore(tmp_path)
    assert "\n" not in str(caught.value)
