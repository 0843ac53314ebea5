"""Samples read, checked and annotated by Ray Data, on all machines of a cluster.

    numbers of samples -> actors, each with the source -> samples in the same order -> this process, which writes shards

What an actor sends is a row of Arrow: the words of a sample as JSON, its image, its condition. The source and its files
must be reached by the same path from all machines.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from tether.cluster import join_cluster, leave_cluster
from tether.datasets.prepare import Preparation, Prepared, prepare_sample
from tether.datasets.source import Rejected, Source
from tether.errors import TetherError

__all__ = ["spread_results"]

LEAST, MOST = 4, 64
"""Samples that an actor is given at once."""
SHARES = 8
"""Parts for each actor, where there are so many samples: the last ones end at about the same time."""
OBJECTS = 512 * 2**20
"""Bytes of the store of objects of a cluster that is made here."""
WORDS = ("key", "suffix", "caption", "content", "further_captions")
Result = Prepared | Rejected


class _Preparer:
    """One actor."""

    def __init__(self, source: Source, how: Preparation) -> None:
        cv2.setNumThreads(1)
        self._source, self._how = source, how

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        return to_table([prepare_sample(self._source, self._how, int(index)) for index in batch["data"]])


@contextmanager
def spread_results(source: Source, how: Preparation, samples: Sequence[int], actors: int | None) -> Iterator[Any]:
    """A function from sample numbers to results in the same order.

    Args:
        source, how: what is read, and how it is prepared.
        samples: all numbers that will be asked for, in that order.
        actors: how many work; by default one a CPU of the cluster.

    Raises:
        TetherError: when the work cannot be done.
    """
    import ray  # type: ignore[import-not-found]
    from ray.data import ActorPoolStrategy, DataContext  # type: ignore[import-not-found]
    from ray.exceptions import RayError  # type: ignore[import-not-found]

    made = join_cluster(actors or os.cpu_count() or 1, OBJECTS)
    count = actors or int(ray.cluster_resources().get("CPU", 1))
    context = DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    share = min(MOST, max(LEAST, len(samples) // (SHARES * count)))
    try:
        parts = [np.asarray(samples[at : at + share]) for at in range(0, len(samples), share)]
        prepared = ray.data.from_numpy(parts).map_batches(
            _Preparer,
            fn_constructor_args=(source, how),
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1, max_size=count),
            num_cpus=1,
        )
        tables: Any = iter(prepared.iter_batches(batch_size=None, batch_format="pyarrow"))
        with closing(tables):  # Ray counts what was read, which it cannot when it has gone
            results = (result for table in tables for result in from_table(table))
            yield lambda numbers: islice(results, len(numbers))
    except RayError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise TetherError(f"Ray could not prepare the samples: {line[:300]}; the same command continues") from None
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before
        if made:
            leave_cluster()


def to_table(results: Iterable[Result]) -> pa.Table:
    """Results as rows. Words are JSON: names of files need not be UTF-8, which Arrow's text is."""
    rows = [_row(result) for result in results]
    kinds = (("words", pa.string()), ("image", pa.binary()), ("condition", pa.binary()))
    return pa.table({name: pa.array([row[k] for row in rows], kind) for k, (name, kind) in enumerate(kinds)})


def _row(result: Result) -> tuple[str, bytes | None, bytes | None]:
    if isinstance(result, Rejected):
        return json.dumps([result.reason, result.detail]), None, None
    return json.dumps({name: getattr(result, name) for name in WORDS}), result.image, result.condition


def from_table(table: pa.Table) -> Iterator[Result]:
    """The results of `to_table`."""
    for row in table.to_pylist():
        words = json.loads(row["words"])
        if isinstance(words, list):
            yield Rejected(*words)
        else:
            further = tuple(words.pop("further_captions"))
            yield Prepared(**words, further_captions=further, image=row["image"], condition=row["condition"])
