"""What the trainer is fed."""

from __future__ import annotations

from types import ModuleType

import torch

from tether.training.batch import Batch, Prefetch, sample_generators


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
