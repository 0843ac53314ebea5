"""How training lies in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tether.training.performance.memory import layout

CPU = torch.device("cpu")


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from tether.training.performance.memory import retained_memory

def faults_of_a_block(mib):  # pages that the system hands out for it; it is freed again
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(mib * 2**18).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

before = resident_mib()
with retained_memory(torch.device(sys.argv[1])):
    faults_of_a_block(256)
    kept = resident_mib() - before
    again = faults_of_a_block(192)
print(kept, again, resident_mib() - before)
"""


def measure(device: str) -> list[float]:
    """MiB that stay after a block of 256 was freed, page faults of a smaller one, MiB that stay at the end.

    In a process of its own: what another test left in the heap decides where a block comes from. Smaller, because a
    block as large does not always fit into the gap that an aligned one leaves.
    """
    told = subprocess.run([sys.executable, "-c", MEASURE, device], capture_output=True, text=True, check=True)
    return [float(number) for number in told.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    kept, faults, left = measure("cpu")
    assert kept > 200
    assert faults < 16  # of 49,152 of 4 KiB, or 96 of 2 MiB
    assert left < 50


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_where_another_device_computes_memory_is_given_back_as_ever() -> None:
    kept, _, left = measure("meta")
    assert kept < 50
    assert left < 50


def test_each_device_has_its_layout() -> None:
    assert (layout(CPU), layout(torch.device("cuda"))) == (torch.contiguous_format, torch.channels_last)


def test_on_a_cpu_every_parameter_lies_as_the_fused_optimizer_reads_it(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=1, device="cpu")
    trainer.fit()
    states = [state["exp_avg"] for state in trainer.state.optimizer.state.values()]
    assert len(states) == len(trainer.state.parameters)
    assert all(tensor.is_contiguous() for tensor in (*trainer.state.parameters, *states))
