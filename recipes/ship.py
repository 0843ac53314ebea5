"""Puts trained weights into the package, as float16 safetensors.

    python recipes/ship.py base runs/base
    python recipes/ship.py control-canny runs/control/control

    python recipes/ship.py --names                  (only renames what is there, to the names that all versions read)

Model cards (README.md in the folder) are written by hand and kept. The tensors of text encoders get their usual names,
which begin with "text_model.": transformers before 5.6 takes the shorter ones that later versions write for missing
weights, and fills in random ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tether.formats.text import text_names

WEIGHTS = Path(__file__).parents[1] / "src/tether/weights"


def ship(name: str, source: Path) -> None:
    """Copies a diffusers folder to the package: tensors as float16, configs as they are."""
    target = WEIGHTS / name
    kept = [path for path in sorted(source.rglob("*")) if path.suffix in (".safetensors", ".json", ".txt")]
    for path in kept:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            if path.parent.name.startswith("text_encoder"):
                tensors = text_names(tensors)
            halves = {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}
            if not all(bool(t.isfinite().all()) for t in halves.values()):
                raise SystemExit(f"{path} does not fit float16")
            save_file(halves, copy, metadata={"format": "pt"})
        else:
            shutil.copyfile(path, copy)
        if path.name == "config.json":
            config = json.loads(copy.read_text())
            config.pop("_name_or_path", None)
            copy.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*.safetensors")) / 1e6
    print(f"{target}: {size:.1f} MB")


def rename(name: str) -> None:
    """Gives the text encoders of a shipped base the names that all versions read; their numbers stay."""
    for path in sorted((WEIGHTS / name).glob("text_encoder*/*.safetensors")):
        tensors = load_file(path)
        if text_names(tensors).keys() != tensors.keys():
            save_file(text_names(tensors), path, metadata={"format": "pt"})
            print(f"{path}: renamed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="base")
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--names", action="store_true")
    arguments = parser.parse_args()
    if arguments.names:
        rename(arguments.name)
    elif arguments.source is None:
        parser.error("give the folder of the trained weights")
    else:
        ship(arguments.name, arguments.source)


if __name__ == "__main__":
    main()
