"""What a CPU computes fast in."""

from __future__ import annotations

import pytest
import torch

from tether.base.precision import has_bf16, slow_type

CPU = torch.device("cpu")
AVX2 = {"architecture": "x86_64", "avx2": True, "avx512_f": False}


@pytest.mark.parametrize(
    ("capabilities", "known"),
    [(AVX2, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({}, False)],
)
def test_instructions_for_bfloat16_are_known(
    capabilities: dict[str, object], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16() is known


def test_a_type_that_the_cpu_emulates_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX2, raising=False)
    assert "emulates bfloat16" in (slow_type(torch.bfloat16, CPU) or "")
    assert "emulates float16" in (slow_type(torch.float16, CPU) or "")
    for dtype, device in ((torch.float32, CPU), (None, CPU), (torch.bfloat16, torch.device("cuda"))):
        assert slow_type(dtype, device) is None


@pytest.mark.parametrize("capabilities", [{}, {"architecture": "aarch64"}, AVX2 | {"avx512_f": True}])
def test_nothing_is_told_of_other_cpus(capabilities: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert slow_type(torch.bfloat16, CPU) is None
