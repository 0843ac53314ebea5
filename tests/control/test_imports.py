"""The core of control needs PyTorch alone, and `import tether.control` loads not even that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CORE = ["zero", "block", "hint", "signal", "conditioning", "control", "schedule", "injection"]
HEAVY = {"accelerate", "cv2", "diffusers", "huggingface_hub", "numpy", "PIL", "safetensors", "transformers"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement has loaded, in a Python of its own."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def test_the_package_loads_nothing():
    assert not loaded_by("import tether, tether.control") & (HEAVY | {"torch"})


def test_the_core_loads_pytorch_and_what_it_brings_and_nothing_else():
    brought = loaded_by("import torch")
    core = loaded_by("; ".join(f"import tether.control.{name}" for name in CORE))
    assert not (core - brought) & HEAVY
    own = {name for name in core if name.startswith("tether.")}
    assert own == {
        "tether._lazy",
        "tether._moved",
        "tether.control",
        "tether.errors",
        *(f"tether.control.{name}" for name in CORE),
    }


def test_any_network_is_controlled_without_diffusers():
    brought = loaded_by("import torch")
    statement = "import tether, torch; tether.attach(torch.nn.Sequential(torch.nn.Linear(2, 2)), '0', 2)"
    assert not (loaded_by(statement) - brought) & HEAVY


def test_names_are_found_where_they_are_used():
    import tether.control

    assert sorted(tether.control.__all__) == sorted(tether.control._HOMES)
    assert set(dir(tether.control)) >= set(tether.control.__all__)
    for name in tether.control.__all__:
        assert getattr(tether.control, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tether.control.nothing  # noqa: B018
