"""`tether info`: what is installed, and on what machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["info"]

PACKAGES = (
    "tether-control",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "opencv-python-headless",
)


def info() -> None:
    """Show versions, the device, and the shipped weights."""
    import torch

    from tether.kinds import annotator_names
    from tether.weights import shipped, shipped_controls

    for name in PACKAGES:
        try:
            print(f"{name:24} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:24} not installed")
    print(f"{'python':24} {platform.python_version()} on {platform.system()} {platform.machine()}")
    if torch.cuda.is_available():
        device = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    elif torch.backends.mps.is_available():
        device = "Apple GPU (mps)"
    else:
        device = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{'device':24} {device}")
    for label, folder in [
        ("base", shipped("base")),
        *((f"control {k}", shipped(f"control-{k}")) for k in shipped_controls()),
    ]:
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
        print(f"{'shipped ' + label:24} {size:.0f} MB in {folder}")
    print(f"{'annotators':24} {', '.join(annotator_names())}")
