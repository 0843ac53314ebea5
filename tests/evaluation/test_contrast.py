"""The contrastive model: it learns pairs, comes back from disk, and its distance is Frechet's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.datasets.synthetic.emoji3d import Emoji3D
from tether.errors import TetherError
from tether.evaluation.contrast import SIDE, Contrast, frechet_distance, load_contrast, pieces

COLORS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.1, 1.0), "white": (1.0, 1.0, 1.0)}
TEXTS = [f"a {name} square" for name in COLORS]
SQUARES = torch.tensor(list(COLORS.values()))[:, :, None, None].expand(-1, -1, 64, 64).clone()


@pytest.fixture(scope="module")
def trained() -> Contrast:
    torch.manual_seed(0)
    model = Contrast(widths=(8, 16), width=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(SQUARES + 0.05 * torch.randn_like(SQUARES), TEXTS).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def test_the_right_text_of_each_picture_is_found(trained: Contrast) -> None:
    similar = trained.see(SQUARES) @ trained.read(TEXTS).t()
    assert similar.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_agreement_is_higher_with_the_right_prompt_at_any_size(trained: Contrast) -> None:
    red = Image.new("RGB", (100, 80), (255, 25, 25))
    right, wrong = (trained.agreement(red, f"A {name.upper()} square!")["value"] for name in ("red", "blue"))
    assert 100 >= right > wrong >= 0


def test_a_saved_model_comes_back_to_half_precision(trained: Contrast, tmp_path: Path) -> None:
    trained.save(tmp_path)
    again = load_contrast(tmp_path)
    assert torch.allclose(again.see(SQUARES), trained.see(SQUARES), atol=2e-2)
    with pytest.raises(TetherError, match="no contrastive model can be opened at"):
        load_contrast(tmp_path / "other")
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(TetherError, match="no contrastive model can be opened at"):
        load_contrast(tmp_path)


def test_words_that_share_letters_share_pieces_and_a_text_without_words_has_one() -> None:
    assert set(pieces("apples")) & set(pieces("apple"))
    assert len(pieces(" !")) == len(pieces("")) == 1
    assert pieces("Red Apple") == pieces("red, apple")


def test_the_distance_of_gaussians_is_that_of_their_means_and_deviations() -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(0, 1, (20_000, 3))
    theirs = rng.normal([1, 0, 0], [1, 2, 3], (20_000, 3))
    # For covariances that commute it is |m - m'|² + Σ (σ - σ')².
    assert frechet_distance(ours, theirs) == pytest.approx(1 + 0 + 1 + 4, rel=0.05)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-6)
    with pytest.raises(TetherError, match="two pictures or more"):
        frechet_distance(ours[:1], theirs)


def test_the_distance_of_pictures_is_smaller_to_their_like(trained: Contrast) -> None:
    def some(color: tuple[int, int, int]) -> list[Image.Image]:
        return [Image.new("RGB", (64, 64), tuple(level + k for level in color)) for k in range(4)]

    red, blue = some((240, 20, 20)), some((20, 20, 240))
    assert trained.distance(red, red) == pytest.approx(0, abs=1e-6)
    assert trained.distance(red, some((230, 30, 30))) < trained.distance(red, blue)


def test_the_shipped_model_finds_captions_of_held_out_drawings_more_often_than_chance() -> None:
    source = Emoji3D(SIDE, 63, held_out=True)
    samples = [source.sample(index) for index in range(63)]
    model = load_contrast()
    pixels = torch.stack([torch.from_numpy(np.array(sample.image)).permute(2, 0, 1) for sample in samples]) / 255
    similar = model.see(pixels) @ model.read([sample.caption for sample in samples]).t()
    place = (similar > similar.diagonal()[:, None]).sum(dim=1)
    assert (place < 5).float().mean() > 0.5  # by chance 0.08
