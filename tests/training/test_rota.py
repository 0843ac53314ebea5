"""Which kind each sample of a run of several kinds shows."""

from __future__ import annotations

from collections import Counter

from tether.training.rota import Rota

KINDS = ("canny", "depth", "depth", "seg")


def test_kinds_take_turns_in_proportion_to_how_often_they_are_listed() -> None:
    rota = Rota(KINDS, seed=3)
    for block in range(5):
        shown = Counter(rota(number).kind for number in range(4 * block, 4 * block + 4))
        assert shown == {"canny": 1, "depth": 2, "seg": 1}


def test_a_kind_counts_its_own_samples_one_by_one() -> None:
    rota = Rota(KINDS, seed=3)
    turns = [rota(number) for number in range(40)]
    for kind in set(KINDS):
        assert [turn.number for turn in turns if turn.kind == kind] == list(range(10 * KINDS.count(kind)))


def test_a_sample_is_a_function_of_the_seed_and_its_number() -> None:
    forward = [Rota(KINDS, seed=3)(number) for number in range(40)]
    backward = Rota(KINDS, seed=3)
    assert [backward(number) for number in reversed(range(40))] == forward[::-1]
    assert [Rota(KINDS, seed=4)(number) for number in range(40)] != forward


def test_the_order_of_kinds_differs_from_block_to_block() -> None:
    rota = Rota(("a", "b", "c", "d"), seed=0)
    orders = {tuple(rota(4 * block + k).kind for k in range(4)) for block in range(20)}
    assert len(orders) > 5
