"""Packs from converted sets at scale: mixed by weight, evenly packed under budgets, resumable to the very sample.

Every rank has ``workers`` readers (one without worker processes), and no two readers read the same sample in an epoch.
A reader fills a window of some packs, lays its samples out evenly (``bin_packing``) and hands the packs on, each with
the state after it; the states of the packs that were consumed are what a checkpoint keeps. Samples are functions
of seed and place, so a resumed run sees the batches of an uninterrupted one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_train.core.config import RunConfig
from emova_train.core.protocols import Batch, SampleT, SampleT_co
from emova_train.data.batches import counted_otherwise, derived_seed, isolated_rng
from emova_train.data.examples import Example
from emova_train.data.pack_reader import PackReader, ShardConfig
from emova_train.data.records import RecordRenderer
from emova_train.data.sample_reader import SKIPPED, Place, TooManyBad
from emova_train.data.shards import ShardSet


@dataclass(frozen=True)
class Delivery:
    """A batch and what the trainer keeps of it.

    Attributes:
        reader: the worker that read it.
        batch: collated.
        state: of the reader, after this batch.
        skipped: samples left out since the batch before: (set, id, reason).
        failure: why the reader gives up; the batch is empty then.
    """

    reader: int
    batch: Batch
    state: Place
    skipped: tuple[tuple[str, str, str], ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class ShardPacks:
    """A training set that reads by itself: ``emova_train.core.loop.fit`` asks it for the batches of its process.

    Attributes:
        mixture: sets with their shares of the samples.
        make_render: makes the renderer, once in each worker process.
        pack_tokens: the most tokens in a pack; where conversations are counted, of one of them.
        passes: over each set in an epoch.
    """

    mixture: Sequence[tuple[ShardSet, float]]
    make_render: Callable[[], RecordRenderer]
    config: ShardConfig
    pack_tokens: int
    passes: Mapping[str, float] = field(default_factory=dict)

    @property
    def conversations(self) -> float:
        """Of an epoch: each set's samples times its passes."""
        return sum(source.records * self.passes[source.name] for source, _ in self.mixture)

    def __len__(self) -> int:
        """Samples of all sets."""
        return sum(source.records for source, _ in self.mixture)

    def batches(self, collate: Callable[[list[list[Example]]], Batch], run: RunConfig) -> ShardLoader:
        """The batches of this process, as ``run`` says; ranks are those of torch.distributed, where it runs."""
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        return ShardLoader(
            self.mixture,
            self.make_render,
            self.config,
            collate,
            pack_tokens=self.pack_tokens,
            batch_size=run.batch_size,
            seed=run.seed,
            total=run.max_steps * run.gradient_accumulation,
            output=run.output_dir,
            workers=run.workers,
            rank=torch.distributed.get_rank() if together else 0,
            world=torch.distributed.get_world_size() if together else 1,
            conversations=run.batch_size if run.global_batch_size else 0,
            passes=self.passes,
            batches_a_step=run.gradient_accumulation,
        )


class _Readers(IterableDataset):
    """What torch's DataLoader sees: in each worker, the deliveries of that worker's reader."""

    def __init__(self, loader: StreamLoader[SampleT]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        yield from self.loader.deliver(info.id if info else 0)


class Reader(Protocol[SampleT_co]):
    """What a worker reads with."""

    reader: int
    skipped: list[tuple[str, str, str]]

    def restore(self, state: Place) -> None: ...

    def state(self) -> Place: ...

    def __iter__(self) -> Iterator[SampleT_co]:
        """Without end. Raises: TooManyBad; InputError."""
        ...


class StreamLoader(Generic[SampleT]):
    """The batches of one rank out of what its readers draw; ``save`` and ``load`` keep its position.

    Args:
        make_reader: of a seed, a reader's number and the number of all readers; once in each worker process.
        collate: list of what was drawn to a batch; it may draw random numbers.
        draws: a batch, of a reader.
        total: batches of the whole run.
        output: folder that ``skipped-samples.jsonl`` is written to.
        batches_a_step: of this rank.
        conversations: a batch; 0 where something else is counted.
    """

    def __init__(
        self,
        make_reader: Callable[[int, int, int], Reader[SampleT]],
        collate: Callable[[list[SampleT]], Batch],
        *,
        draws: int,
        seed: int,
        total: int,
        output: str | Path,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        batches_a_step: int = 1,
        conversations: int = 0,
    ) -> None:
        self.make_reader, self.collate, self.draws, self.seed, self.total = make_reader, collate, draws, seed, total
        self.conversations, self.batches_a_step = conversations, batches_a_step
        self.workers, self.rank, self.world = workers, rank, world
        self.skipped_path = Path(output) / SKIPPED
        self.dataset = _Readers(self)
        self.states: dict[int, Place] = {}
        self.position = 0

    @property
    def readers(self) -> int:
        """Of all ranks together."""
        return max(self.workers, 1) * self.world

    def __len__(self) -> int:
        # The Trainer counts the whole run, resumed or not.
        return self.total

    def _turn(self, worker: int) -> int:
        """torch asks worker 0 first; after a resume that worker does the work of the reader whose turn it is."""
        own = max(self.workers, 1)
        return (worker + self.position) % own

    def deliver(self, worker: int) -> Iterator[Delivery]:
        """The deliveries of a worker, without end unless it gives up."""
        own = self._turn(worker)
        reader = self.make_reader(self.seed, self.rank * max(self.workers, 1) + own, self.readers)
        if own in self.states:
            reader.restore(self.states[own])
        drawn = iter(reader)
        while True:
            try:
                chosen = [next(drawn) for _ in range(self.draws)]
            except (TooManyBad, InputError) as error:
                # An exception that crosses processes loses its plain message; this way it does not.
                yield Delivery(own, {}, {}, tuple(reader.skipped), str(error))
                return
            state = reader.state()
            # `collate` may draw (the prompt positions that are left out): as a function of the place alone.
            with isolated_rng(derived_seed(self.seed, reader.reader, state["drawn"], state["given"])):
                batch = self.collate(chosen)
            yield Delivery(own, batch, state, tuple(reader.skipped))
            reader.skipped.clear()

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the position on. Raises: InputError: too many samples are damaged."""
        loader = DataLoader(
            self.dataset,
            batch_size=None,
            num_workers=self.workers,
            # Its own generator: starting the iterator must not move the generator that dropout draws from.
            generator=torch.Generator().manual_seed(self.seed),
            prefetch_factor=2 if self.workers else None,
        )
        deliveries = iter(loader)
        while self.position < self.total:
            delivery = next(deliveries)
            self._note(delivery.skipped)
            if delivery.failure:
                raise InputError(delivery.failure)
            self.states[delivery.reader] = delivery.state
            self.position += 1
            yield delivery.batch

    def _note(self, skipped: Sequence[tuple[str, str, str]]) -> None:
        if not skipped:
            return
        self.skipped_path.parent.mkdir(parents=True, exist_ok=True)
        with self.skipped_path.open("a", encoding="utf-8") as file:
            for source, identity, reason in skipped:
                row = {"batch": self.position, "rank": self.rank, "set": source, "id": identity, "reason": reason}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def counts(self) -> dict[str, float]:
        """Samples tried and left out by this rank."""
        tried, skipped = (sum(state["counts"][at] for state in self.states.values()) for at in (0, 1))
        return {"samples_tried": tried, "samples_skipped": skipped}

    def epoch(self, step: int) -> float:
        """The passes over the set that is furthest."""
        passes = [place[0] for state in self.states.values() for place in state["sets"].values()]
        return max(passes, default=0)

    # Position

    def save(self, folder: Path) -> None:
        """Write the position into a checkpoint's folder, one file a rank."""
        content = {
            "position": self.position, "readers": self.readers, "seed": self.seed, "states": self.states,
            "conversations": self.conversations, "batches_a_step": self.batches_a_step,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"data-{self.rank}.json").write_text(json.dumps(content), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on where a checkpoint was written.

        With another number of ranks or workers, or of conversations a batch, the same order cannot go on; the sets are
        then read anew in another order, which is said on stderr.

        Raises:
            InputError: the checkpoint has no position, or one of other sets.
        """
        path = folder / f"data-{self.rank}.json"
        paths = [path] if path.is_file() else sorted(folder.glob("data-*.json"))
        try:
            content = json.loads(paths[0].read_text(encoding="utf-8"))
            self.position, self.seed = int(content["position"]), int(content["seed"])
            self.position = self.position // content.get("batches_a_step", self.batches_a_step) * self.batches_a_step
            counted = int(content.get("conversations", 0))  # earlier versions counted packs, whatever the batch said
            if content["readers"] == self.readers and path.is_file() and counted == self.conversations:
                self.states = {int(reader): state for reader, state in content["states"].items()}
            else:
                self.seed += 1 + self.position
                print(
                    f"{folder}: it was written by {content['readers']} readers of the data with batches of {counted} "
                    f"conversations, now there are {self.readers} with {self.conversations} (0: packs); the sets are "
                    "read from their start in another order",
                    file=sys.stderr,
                )
        except (IndexError, OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{folder}: it has no position in the data; resume from one of a run on sets") from None
        if bool(counted) != bool(self.conversations):
            raise InputError(counted_otherwise(folder, counted, self.conversations))
        self._forget(self.position)

    def _forget(self, position: int) -> None:
        """Drop skips that were noted behind ``position``: they will be noted again."""
        if self.rank == 0 and self.skipped_path.is_file():
            lines = self.skipped_path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["batch"] < position]
            write_text(self.skipped_path, "".join(kept))


class ShardLoader(StreamLoader):
    """The batches of packs of one rank.

    Args:
        make_render: makes the renderer, once in each worker process.
        collate: list of packs to a batch.
        batch_size: packs a batch.
        total: batches of the whole run.
        output: folder that ``skipped-samples.jsonl`` is written to.
        conversations: a batch, exactly; an epoch then holds every sample as often as ``passes`` says. 0: a batch is
            ``batch_size`` packs that are full of tokens, and the sets are drawn by their shares.
        batches_a_step: of this rank.
    """

    def __init__(
        self,
        mixture: Sequence[tuple[ShardSet, float]],
        make_render: Callable[[], RecordRenderer],
        config: ShardConfig,
        collate: Callable[[list[list[Example]]], Batch],
        *,
        pack_tokens: int,
        batch_size: int,
        seed: int,
        total: int,
        output: str | Path,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        conversations: int = 0,
        passes: Mapping[str, float] | None = None,
        batches_a_step: int = 1,
    ) -> None:
        super().__init__(
            self._pack_reader, collate, draws=1 if conversations else batch_size, seed=seed, total=total, output=output,
            workers=workers, rank=rank, world=world, batches_a_step=batches_a_step, conversations=conversations,
        )  # fmt: skip
        self.passes, self.mixture, self.make_render = passes, mixture, make_render
        self.config, self.pack_tokens = config, pack_tokens

    def _pack_reader(self, seed: int, reader: int, readers: int) -> PackReader:
        return PackReader(
            self.mixture, self.make_render(), self.config, pack_tokens=self.pack_tokens, seed=seed, reader=reader,
            readers=readers, conversations=self.conversations, passes=self.passes,
        )  # fmt: skip

    def epoch(self, step: int) -> float:
        """The passes over the mixture, or where packs are counted over the set that is furthest."""
        if self.conversations:
            assert self.passes is not None
            whole = sum(source.records * self.passes[source.name] for source, _ in self.mixture)
            return step * self.batches_a_step * self.conversations * self.world / whole
        return super().epoch(step)
