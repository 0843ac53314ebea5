"""Puts trained weights into the package, as float16 safetensors.

    python recipes/ship.py base runs/base
    python recipes/ship.py control-canny runs/control/control

Model cards (README.md in the folder) are written by hand and kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("source", type=Path)
    arguments = parser.parse_args()
    ship(arguments.name, arguments.source)


if __name__ == "__main__":
    main()
