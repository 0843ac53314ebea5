"""The order of samples: every block of one bucket, every sample equally often, a function of the seed and n."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tether.training.batch import sample_generators
from tether.training.order import Order

BUCKETS = [[0, 1, 2, 3, 4], [10, 11], [20 + k for k in range(13)], [99]]
BUCKET_OF = {sample: number for number, samples in enumerate(BUCKETS) for sample in samples}


@pytest.mark.parametrize("block", [1, 2, 4, 8, 40])
def test_a_block_has_samples_of_one_bucket(block: int) -> None:
    order = Order(BUCKETS, block, seed=3)
    for number in range(30):
        shown = {BUCKET_OF[order(block * number + place)[0]] for place in range(block)}
        assert len(shown) == 1


@pytest.mark.parametrize("block", [1, 4, 8])
def test_every_sample_is_shown_equally_often(block: int) -> None:
    order = Order(BUCKETS, block, seed=0)
    total, epochs = sum(map(len, BUCKETS)), 8 * block
    shown = Counter(order(number)[0] for number in range(total * epochs))
    # In whole blocks: after 8 G epochs each bucket has had 8 m_b blocks, its 8 G passes.
    assert shown == Counter(dict.fromkeys(BUCKET_OF, epochs))


def test_a_pass_shows_each_sample_of_its_bucket_once() -> None:
    order = Order(BUCKETS, 4, seed=1)
    passes: dict[tuple[int, int], list[int]] = {}
    for number in range(40 * 21):
        sample, which = order(number)
        passes.setdefault((BUCKET_OF[sample], which), []).append(sample)
    last = {bucket: max(which for b, which in passes if b == bucket) for bucket in range(len(BUCKETS))}
    for (bucket, which), samples in passes.items():
        if which < last[bucket]:
            assert sorted(samples) == BUCKETS[bucket]
    assert passes[2, 0] != passes[2, 1]


def test_any_sample_is_known_without_those_before_it_and_depends_on_the_seed() -> None:
    whole = [Order(BUCKETS, 4, seed=5)(number) for number in range(400)]
    for number in (0, 7, 123, 399):
        assert Order(BUCKETS, 4, seed=5)(number) == whole[number]
    assert [Order(BUCKETS, 4, seed=6)(number) for number in range(400)] != whole


def test_one_bucket_is_shown_as_earlier_versions_did() -> None:
    """Sample n was entry π_e(n mod m), π_e drawn by the generator of epoch e in stream 2."""
    order = Order([[5, 6, 7]], 4, seed=9)
    for number in range(12):
        epoch, place = divmod(number, 3)
        (generator,) = sample_generators(9, range(epoch, epoch + 1), 2)
        assert order(number) == ([5, 6, 7][torch.randperm(3, generator=generator)[place]], epoch)


def test_orders_of_several_places_differ_and_each_shows_all() -> None:
    samples = list(range(12))
    first, second = ([Order([samples], 4, seed=5, place=place)(n)[0] for n in range(12)] for place in (0, 1))
    assert sorted(first) == sorted(second) == samples
    assert first != second
