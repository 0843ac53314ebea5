"""The packed latents file that denoiser and control are both trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from grounding import GROUPS, SceneGrounding, scene_spans
from samples import CAPTIONS, TOKENS, Samples, tokenize
from tether.base import Base
from tether.errors import TetherError
from tether.training.packed import PackedBatches
from words import mark, unmark

ROOT = Path(__file__).parents[2]
COUNTS = {"core": 5, "pairs": 3, "scenes": 4}
SHARES = {"core": 0.5, "pairs": 0.25, "scenes": 0.25}
PAIR = f"{mark('a red apple', 2)} left of {mark('a cat', 3)}, {mark('blue background', 0)}"
SCENE = "a shiny red cube left of a matte blue sphere on a grey floor, white background, 3d scene"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(ROOT / "src/tether/weights/base/tokenizer")


@pytest.fixture
def pack(tmp_path: Path, tokenizer: CLIPTokenizer) -> Path:
    """A file as recipes/latents.py writes it; a row's latents are all its number."""
    rows, grounded = sum(COUNTS.values()), COUNTS["pairs"] + COUNTS["scenes"]
    captions = [("a cat", [])] * COUNTS["core"] + [unmark(PAIR)] * COUNTS["pairs"]
    captions += [(SCENE, scene_spans(SCENE))] * COUNTS["scenes"]
    tokens, words = tokenize([one for one in captions for _ in range(CAPTIONS)], tokenizer)
    latents = np.arange(rows, dtype=np.float16)[:, None, None, None] + np.zeros((4, 8, 8), np.float16)
    places = np.zeros((grounded, GROUPS, 8, 8), np.uint8)
    places[:, 2] = 255
    np.savez(
        tmp_path / "latents.npz",
        latents=latents,
        tokens=tokens.reshape(rows, CAPTIONS, -1),
        words=words.reshape(rows, CAPTIONS, -1)[-grounded:],
        places=places,
        captions=np.array(json.dumps([[text] * CAPTIONS for text, _ in captions])),
        counts=np.array(json.dumps(COUNTS)),
        edges=np.zeros((rows, 2, 64, 8), np.uint8),
    )
    return tmp_path / "latents.npz"


def said(tokens: torch.Tensor, groups: torch.Tensor, tokenizer: CLIPTokenizer) -> list[str]:
    """The words of each group."""
    return [tokenizer.decode(tokens[group]).strip() for group in groups]


def test_batches_have_the_shares_with_the_grounded_images_last(pack: Path, tokenizer: CLIPTokenizer) -> None:
    empty = tokenizer("", padding="max_length", max_length=TOKENS).input_ids
    samples = Samples(pack, empty, SHARES, device=torch.device("cpu"))
    batch = samples.draw(16, 0.0, torch.Generator().manual_seed(0))
    rows = batch.latents[:, 0, 0, 0].long()
    assert [int(((low <= rows) & (rows < high)).sum()) for low, high in ((0, 5), (5, 8), (8, 12))] == [8, 4, 4]
    assert batch.words.shape == (8, GROUPS, TOKENS)
    assert said(batch.tokens[8], batch.words[0], tokenizer) == ["blue background", "", "a red apple", "a cat", "", ""]
    things = ["white background", "grey floor", "shiny red cube", "matte blue sphere", "", ""]
    assert said(batch.tokens[15], batch.words[7], tokenizer) == things
    assert (batch.masks[:, 2] == 1).all()


def test_emptied_captions_have_no_words(pack: Path, tokenizer: CLIPTokenizer) -> None:
    empty = tokenizer("", padding="max_length", max_length=TOKENS).input_ids
    batch = Samples(pack, empty, SHARES, device=torch.device("cpu")).draw(8, 1.0, torch.Generator().manual_seed(0))
    assert not batch.words.any()
    assert batch.tokens.tolist() == [empty] * 8


def test_the_trainer_reads_the_same_file(pack: Path, tiny_base: Base) -> None:
    batches = PackedBatches(pack, tiny_base, seed=1, randomness="batch", prompt_dropout=0.0, shares=SHARES)
    batch = batches(range(8))
    assert batch.latents[:, 0, 0, 0].tolist() == list(batch.rows)
    assert [batch.captions[k] for k in (0, 4, 7)] == ["a cat", unmark(PAIR)[0], SCENE]


def grounding(tokenizer: CLIPTokenizer, pack: Path, scenes: Path | None = None) -> SceneGrounding:
    base = SimpleNamespace(tokenizer=tokenizer)
    return SceneGrounding(nn.Module(), base, str(pack), None if scenes is None else str(scenes))  # type: ignore[arg-type]


def test_the_auxiliary_loss_knows_the_words_of_pairs_and_scenes(pack: Path, tokenizer: CLIPTokenizer) -> None:
    loss = grounding(tokenizer, pack)
    assert (loss.first, len(loss.places)) == (5, 7)
    for row, caption in ((0, unmark(PAIR)[0]), (6, SCENE)):
        tokens = torch.tensor(tokenizer(caption, padding="max_length", max_length=TOKENS).input_ids)
        found = said(tokens, torch.from_numpy(loss._groups(row, caption)), tokenizer)
        assert found[2:4] == (["a red apple", "a cat"] if row == 0 else ["shiny red cube", "matte blue sphere"])
    assert not loss._groups(0, "").any()


def test_files_without_words_and_places_get_them_of_their_scenes(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    golden = ROOT / "tests/golden"
    old = grounding(tokenizer, golden / "recipe-latents.npz", golden / "recipe-scenes.npz")
    with np.load(golden / "recipe-latents.npz") as file, np.load(golden / "recipe-scenes.npz") as scenes:
        captions = json.loads(str(file["captions"]))[-10:]
        _, words = tokenize([(text, scene_spans(text)) for row in captions for text in row], tokenizer)
        arrays = {name: file[name] for name in ("captions", "counts")}
        np.savez(tmp_path / "new.npz", words=words.reshape(10, 6, -1), places=scenes["places"], **arrays)
    new = grounding(tokenizer, tmp_path / "new.npz")
    assert new.first == old.first
    assert torch.equal(new.places, old.places)
    for row, each in enumerate(captions):
        for caption in each:
            assert (new._groups(row, caption) == old._groups(row, caption)).all()
    with pytest.raises(TetherError, match="does not say where things are: give the option scenes"):
        grounding(tokenizer, golden / "recipe-latents.npz")
