"""Drafts built by several processes, in order: on this machine, or through Ray Data on many.

Both give what ``emova_data.sources.convert.convert`` takes as ``build``: from drafts to (id, record or None, reason).
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from emova.core.errors import InputError
from emova_data.records.records import Draft, Record
from emova_data.sources.convert import build_one

Built = tuple[str, "Record | None", "str | None"]
Build = Callable[[Iterable[Draft]], Iterator[Built]]
ArgumentT = TypeVar("ArgumentT")
_WAVE = 256  # drafts a Ray worker gets before the results are written


def in_pool(jobs: int, start: Callable[[ArgumentT], object], argument: ArgumentT) -> Build:
    """``jobs`` processes of this machine, each prepared by ``start(argument)``."""

    def build(todo: Iterable[Draft]) -> Iterator[Built]:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(jobs, context, start, (argument,)) as pool:
            waiting: deque[concurrent.futures.Future[Built]] = deque()
            try:
                for draft in todo:
                    waiting.append(pool.submit(build_one, draft))
                    if len(waiting) >= 4 * jobs:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # who breaks off does not wait for what had not begun

    return build


class _Worker(Generic[ArgumentT]):
    """One Ray actor; rows hold drafts and records, which Ray carries as they are."""

    def __init__(self, start: Callable[[ArgumentT], object], argument: ArgumentT) -> None:
        start(argument)

    def __call__(self, row: dict[str, Draft]) -> dict[str, Built]:
        return {"built": build_one(row["draft"])}


def in_ray(jobs: int, start: Callable[[ArgumentT], object], argument: ArgumentT, *, wave: int = _WAVE) -> Build:
    """``jobs`` workers of the Ray cluster that ``RAY_ADDRESS`` names, else of a local one started here.

    Raises:
        InputError: ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("ray=true: Ray Data is not installed; run pip install 'emova[ray]'") from None

    def build(todo: Iterable[Draft]) -> Iterator[Built]:
        if not ray.is_initialized():
            ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else jobs, include_dashboard=False)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        drafts = iter(todo)
        # In waves, so that what is done is written while the rest is still to be read.
        while rows := [{"draft": draft} for draft in itertools.islice(drafts, wave * jobs)]:
            made = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4 * jobs)).map(
                _Worker, fn_constructor_args=(start, argument), compute=ray.data.ActorPoolStrategy(size=jobs)
            )
            for row in made.iter_rows():
                yield tuple(row["built"])  # where no draft of a block made a record, Arrow made it a list

    return build
