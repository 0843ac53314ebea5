"""What the trainer is fed."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tether.control import Conditioning
from tether.errors import TetherError
from tether.training.batch import Batch, Prefetch, batch_generator, sample_generators


def test_prefetching_gives_the_batches_in_the_order_asked_for(tiny: ModuleType) -> None:
    asked = []

    def batches(samples: range) -> Batch:
        asked.append(samples)
        return tiny.batches(samples)

    feed = Prefetch(batches, 2)
    plan = [range(n, n + 2) for n in range(0, 12, 2)]
    given = [feed(samples, plan[index + 1 :]) for index, samples in enumerate(plan)]
    feed.close()
    assert [batch.names[0] for batch in given] == [f"sample {samples.start}" for samples in plan]
    assert sorted(asked, key=lambda samples: samples.start) == plan


def test_no_two_samples_share_their_random_numbers() -> None:
    drawn = {torch.randint(2**62, (), generator=g).item() for g in sample_generators(3, range(20_000))}
    assert len(drawn) == 20_000


def test_the_generator_of_a_batch_follows_from_seed_and_number() -> None:
    drawn = [torch.rand(3, generator=batch_generator(7, range(n, n + 4))) for n in (0, 4, 8, 4)]
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7_000_002))
    assert torch.equal(drawn[2], expected)


def batch_of(conditions: torch.Tensor) -> Batch:
    return Batch(torch.zeros(1, 4, 8, 8), conditions, Conditioning(torch.zeros(1, 5, 12)))


def test_bytes_become_numbers_from_0_to_1() -> None:
    found = batch_of(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)).to(torch.device("cpu"))
    assert found.conditions.flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert found.latents.is_contiguous()


@pytest.mark.parametrize("value", [-0.5, 2.0, float("nan")])
def test_conditions_outside_of_their_range_are_refused(value: float) -> None:
    with pytest.raises(TetherError, match=r"conditions have values in .*; expected \[0, 1\]"):
        batch_of(torch.full((1, 3, 64, 64), value)).to(torch.device("cpu"))


def test_conditions_for_inpainting_may_be_minus_1() -> None:
    found = batch_of(torch.full((1, 3, 64, 64), -1.0)).to(torch.device("cpu"), value_range=(-1.0, 1.0))
    assert bool((found.conditions == -1).all())
