"""When a run stops because of its loss."""

from __future__ import annotations

from tether.training.divergence import LossLimit


def test_losses_that_differ_by_far_are_no_explosion_before_50_are_known() -> None:
    """At batch 1 one timestep's loss may be a hundred times another's."""
    limit = LossLimit(factor=3.0)
    assert [limit.problem(loss) for loss in [0.01, 1.0] * 25] == [None] * 50
    assert limit.problem(2.9) is None
    assert "exploded (3.1; expected at most 3)" in str(limit.problem(3.1))
    assert "not finite" in str(limit.problem(float("nan")))
