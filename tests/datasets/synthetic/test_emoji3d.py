"""The set `emoji3d`."""

from __future__ import annotations

from tether.datasets.sources import open_source
from tether.datasets.synthetic.emoji import is_held_out


def test_held_out_emoji_are_never_in_the_training_set() -> None:
    source = open_source("emoji3d", size=32)
    names = {source.key(index).rpartition("-")[0] for index in range(len(source))}
    assert len(names) > 900
    assert not any(is_held_out(name) for name in names)
