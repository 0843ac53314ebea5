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


def page_faults_of_a_block() -> int:
    """How many pages the system hands out for 256 MiB, which are freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    gc.collect()
    before = resident_mib()
    with retained_memory(CPU):
        page_faults_of_a_block()
        assert resident_mib() > before + 200
        assert page_faults_of_a_block() < 16  # of 65,536 of 4 KiB, or 128 of 2 MiB
    assert resident_mib() < before + 50


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_where_another_device_computes_memory_is_given_back_as_ever() -> None:
    gc.collect()
    before = resident_mib()
    with retained_memory(torch.device("meta")):
        page_faults_of_a_block()
        assert resident_mib() < before + 50


def test_each_device_has_its_layout() -> None:
    assert (layout(CPU), layout(torch.device("cuda"))) == (torch.contiguous_format, torch.channels_last)


def test_on_a_cpu_every_parameter_lies_as_the_fused_optimizer_reads_it(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=1, device="cpu")
    trainer.fit()
    states = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert len(states) == len(trainer.parameters)
    assert all(tensor.is_contiguous() for tensor in (*trainer.parameters, *states))
