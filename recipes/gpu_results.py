"""Makes folders of what recipes/gpu.sh gave back: runs/gpu/base, runs/gpu/control-canny and so on.

    python recipes/gpu_results.py FOLDER
    python recipes/ship.py base runs/gpu/base
    python recipes/ship.py control-canny runs/gpu/control-canny
    python recipes/ship.py control-union runs/gpu/control-union
    python recipes/ship.py judges runs/gpu/judges
    python recipes/ship.py contrast runs/gpu/contrast

Configurations, tokenizer and schedule are those of the shipped weights, and so are tensors that did not come back.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from gpu_weights import join

SHIPPED = Path(__file__).parents[1] / "src/tether/weights"
PARTS = {
    "vae": "base/vae/diffusion_pytorch_model.safetensors",
    "unet": "base/unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "base/text_encoder/model.safetensors",
    "control": "control-canny/diffusion_pytorch_model.safetensors",
    "union": "control-union/diffusion_pytorch_model.safetensors",
    "judge": "judges/model.safetensors",
    "contrast": "contrast/model.safetensors",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    arguments = parser.parse_args()
    for name in ("base", "control-canny", "control-union", "judges", "contrast"):
        ignored = shutil.ignore_patterns("*.png", "README.md")
        if (SHIPPED / name).exists():
            shutil.copytree(SHIPPED / name, arguments.out / name, ignore=ignored, dirs_exist_ok=True)
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    for name, folder in (("union", "control-union"), ("judge", "judges"), ("contrast", "contrast")):
        if (arguments.folder / f"{name}-config.json").exists():
            shutil.copy(arguments.folder / f"{name}-config.json", arguments.out / folder / "config.json")
    for part, path in PARTS.items():
        if list(arguments.folder.glob(f"{part}.*")):
            join(arguments.folder / part, arguments.out / path)
            print(f"{path}: {(arguments.out / path).stat().st_size / 1e6:.1f} MB")
        else:
            print(f"{path}: did not come back, the shipped one stays")


if __name__ == "__main__":
    main()
