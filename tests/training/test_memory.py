"""How training lies in memory."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tether.training.memory import layout, retained_memory

CPU = torch.device("cpu")


def page_faults_of_a_second_block() -> int:
    """How many pages the system hands out for 64 MiB right after 64 MiB were freed."""
    counts = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = torch.empty(2**24).fill_(1.0)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del block
    return counts[1]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    gc.disable()
    try:
        with retained_memory(CPU):
            assert page_faults_of_a_second_block() < 16
        assert page_faults_of_a_second_block() >= 16  # 16,384 of 4 KiB, or 32 of 2 MiB
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_where_another_device_computes_memory_is_given_back_as_ever() -> None:
    with retained_memory(torch.device("meta")):
        assert page_faults_of_a_second_block() >= 16


def test_each_device_has_its_layout() -> None:
    assert (layout(CPU), layout(torch.device("cuda"))) == (torch.contiguous_format, torch.channels_last)


def test_on_a_cpu_every_parameter_lies_as_the_fused_optimizer_reads_it(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=1, device="cpu")
    trainer.fit()
    states = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert len(states) == len(trainer.parameters)
    assert all(tensor.is_contiguous() for tensor in (*trainer.parameters, *states))
