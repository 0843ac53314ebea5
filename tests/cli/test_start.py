"""What a command imports: which is certain, where seconds are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "src" / "tether" / "examples" / "house.webp"
NOT_TO_DRAW = {
    "accelerate",
    "matplotlib",
    "pandas",
    "peft",
    "scipy",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "transformers",
    "diffusers.models.transformers.ace_step_transformer",
    "diffusers.pipelines",
}
HEAVY = {"diffusers", "torch", "transformers"}


def imported_by(*words: str, code: int = 0, before: str = "") -> set[str]:
    """The modules that are there when a command has ended."""
    program = (
        f"import sys; sys.argv = ['tether', *{list(words)}]\n{before}\n"
        "from tether.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: ended = stop.code or 0\n"
        f"assert ended == {code}, ended\n"
        "print('\\nmodules', *[name for name, module in sys.modules.items() if module is not None])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """An image with a control, and the modules that drawing it imported."""
    out = tmp_path_factory.mktemp("drawn") / "house.png"
    words = ["generate", "a house", "--control", f"canny={EXAMPLE}", "--steps", "1", "--seed", "1", "-o", str(out)]
    return out, imported_by(*words)


def test_drawing_imports_nothing_that_it_does_not_use(drawn: tuple[Path, set[str]]) -> None:
    _, modules = drawn
    assert not NOT_TO_DRAW & modules
    assert {"torch", "diffusers.models.unets.unet_2d_condition", "tokenizers"} <= modules


def test_a_server_imports_nothing_more_to_draw_and_collects_garbage_as_ever(tmp_path: Path) -> None:
    words = ["serve", "--check", "--port", "0", "--data", str(tmp_path)]
    modules = imported_by(*words, before="import gc; gc.set_threshold = lambda *_: 1 / 0")
    assert not NOT_TO_DRAW & modules
    assert {"fastapi", "torch"} <= modules


def test_the_image_is_that_of_the_same_request_with_everything_imported(drawn: tuple[Path, set[str]]) -> None:
    path, _ = drawn
    again = path.with_name("again.png")
    modules = imported_by("generate", "--again", str(path), "-o", str(again), before="import diffusers, torch._dynamo")
    assert "torch._dynamo" in modules
    assert Image.open(again).tobytes() == Image.open(path).tobytes()


def test_what_was_hidden_can_be_imported_afterwards() -> None:
    program = (
        "import sys\n"
        "from tether.cli import lean\n"
        "lean.install()\n"
        "from diffusers import UNet2DConditionModel\n"
        "assert not any(name in sys.modules for name in ('torch._dynamo', *lean.HIDDEN)), 'hidden'\n"
        "import accelerate, torch, transformers\n"
        "from diffusers.models.transformers import Transformer2DModel\n"
        "from diffusers.models.transformers.transformer_2d import Transformer2DModel as same\n"
        "from diffusers.models.unets import UNet2DModel, UNet2DConditionModel as one\n"
        "from diffusers import AutoencoderKL, FluxTransformer2DModel\n"
        "assert same is Transformer2DModel and one is UNet2DConditionModel\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
        "assert UNet2DModel and FluxTransformer2DModel\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", ["lean.WANTED = ('diffusers.no_such_module',)", "os.environ['TETHER_LEAN'] = '0'"])
def test_where_a_lean_import_is_not_possible_diffusers_is_imported_whole(change: str) -> None:
    program = (
        f"import os, sys\nfrom tether.cli import lean\n{change}\n"
        "lean.install()\n"
        "from diffusers import UNet2DConditionModel\n"
        "assert 'torch._dynamo' in sys.modules and 'transformers' in sys.modules\n"
        "UNet2DConditionModel(block_out_channels=(8, 8, 8, 8), cross_attention_dim=8, norm_num_groups=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_annotating_imports_no_model(tmp_path: Path) -> None:
    modules = imported_by("annotate", "canny", str(EXAMPLE), "-o", str(tmp_path / "lines.png"))
    assert not HEAVY & modules


def test_reading_a_request_imports_no_model(drawn: tuple[Path, set[str]]) -> None:
    assert not HEAVY & imported_by("info", str(drawn[0]))


@pytest.mark.parametrize(
    "words",
    [
        ["--scheduler", "foo"],
        ["--spacing", "even"],
        ["--dtype", "float8"],
        ["--guidance-scale", "nan"],
        ["--eta", "0.5"],
        ["--count", "2", "--seed", "1,2,3"],
        ["--control", f"canny={EXAMPLE},weighting=heavy"],
        ["--control", f"canny={EXAMPLE},sides=2"],
        ["--control", f"canny={EXAMPLE}@0.8-0.2"],
        ["--control", "canny=no.png"],
        ["--lora", ""],
        ["--init", str(EXAMPLE), "--denoising-strength", "0.01"],
    ],
)
def test_a_wrong_value_is_told_before_any_model_is_imported(words: list[str], tmp_path: Path) -> None:
    assert not HEAVY & imported_by("generate", "a house", *words, "-o", str(tmp_path), code=2)
