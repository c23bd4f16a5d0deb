"""Packs from converted sets at scale: mixed by weight, evenly packed under budgets, resumable to the very sample.

Every rank has ``workers`` readers (one without worker processes), and no two readers read the same sample in an epoch.
A reader fills a window of some packs, lays its samples out evenly (``bin_packing``) and hands the packs on, each with
the state after it; the states of the packs that were consumed are what a checkpoint keeps. Samples are functions
of seed and place, so a resumed run sees the batches of an uninterrupted one.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_train.core.config import RunConfig
from emova_train.core.protocols import Batch
from emova_train.data.bin_packing import balance
from emova_train.data.batches import derived_seed, isolated_rng
from emova_train.data.examples import Example
from emova_train.data.records import BadSample, RecordConfig, RecordRenderer
from emova_train.data.shards import Bad, SetReader, ShardSet

Place = dict[str, Any]
"""Where a reader stands, as JSON keeps it."""
SKIPPED = "skipped-samples.jsonl"
_DRAWS = 1024  # choices of a set that are drawn at a time
_FILL = 0.96  # of a window's packs: with a little room no pack more is needed


@dataclass(frozen=True)
class ShardConfig:
    """How sets are read and packed.

    Attributes:
        root: the folder of the converted sets.
        budgets: most tokens of a modality (``image``, ``speech``, ``text``) in a pack; what is not named has no limit
            but the pack's. They keep the vision tower's share of a step alike on all ranks.
        window: packs that are laid out together; more are more even, and cost memory and time to resume.
        block: neighbours in a shard that are shuffled with each other.
        max_skip_rate: the share of damaged samples above which the run ends.
        min_tried: samples before the rate is looked at.
        records: how a record becomes a conversation.
    """

    root: str = "data/sets"
    budgets: dict[str, int] = field(default_factory=dict)
    window: int = 8
    block: int = 256
    max_skip_rate: float = 0.05
    min_tried: int = 200
    records: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        for name, budget in self.budgets.items():
            if name not in ("text", "image", "speech") or budget < 1:
                raise InputError(f"budgets.{name}={budget}: budgets are of text, image and speech, and at least 1")
        for name in ("window", "block", "min_tried"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")


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


class PackReader:
    """The endless packs of one reader.

    Args:
        mixture: sets with their shares of the samples.
        render: of a process of its own; makes examples.
        pack_tokens: the most tokens in a pack.
    """

    def __init__(
        self,
        mixture: Sequence[tuple[ShardSet, float]],
        render: RecordRenderer,
        config: ShardConfig,
        *,
        pack_tokens: int,
        seed: int,
        reader: int,
        readers: int,
    ) -> None:
        self.render, self.config, self.seed, self.reader = render, config, seed, reader
        self.shares = np.asarray([share for _, share in mixture])
        self.sets = {
            source.name: SetReader(source, seed=seed, reader=reader, readers=readers, block=config.block)
            for source, _ in mixture
        }
        self.names = list(self.sets)
        self.measures = ("all", *config.budgets)
        self.budgets = np.asarray([pack_tokens, *config.budgets.values()], dtype=float)
        self.drawn = self.tried = self.damaged = 0
        self.reasons: Counter[str] = Counter()
        self.skipped: list[tuple[str, str, str]] = []
        self._window_state: Place = {}
        self._given = 0
        self._choices: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def _place(self) -> Place:
        sets = {name: reader.state() for name, reader in self.sets.items()}
        return {"sets": sets, "drawn": self.drawn, "tried": self.tried, "reasons": dict(self.reasons)}

    def state(self) -> Place:
        """Where the window began, and how many of its packs were given."""
        return {**copy.deepcopy(self._window_state), "given": self._given, "counts": [self.tried, self.damaged]}

    def restore(self, state: Place) -> None:
        """Go on behind the pack that ``state`` was taken after."""
        if set(state["sets"]) != set(self.sets):
            raise InputError(f"data.sets: the checkpoint has {', '.join(state['sets'])}; give the same or resume=false")
        for name, place in state["sets"].items():
            self.sets[name].restore(place)
        self.drawn, self.tried, self.reasons = state["drawn"], state["tried"], Counter(state["reasons"])
        self.damaged = sum(self.reasons.values())
        self._given = state["given"]

    def _choose(self) -> str:
        block, at = divmod(self.drawn, _DRAWS)
        if self._choices[0] != block:
            rng = np.random.default_rng([self.seed, self.reader, block])
            self._choices = block, rng.choice(len(self.shares), size=_DRAWS, p=self.shares)
        self.drawn += 1
        return self.names[self._choices[1][at]]

    def _draw(self) -> Example:
        """The next good sample. Raises: TooManyBad."""
        while True:
            name = self._choose()
            source = self.sets[name]
            epoch = source.epoch
            raw = source.next()
            self.tried += 1
            try:
                if isinstance(raw, Bad):
                    raise BadSample(raw.reason)
                made = self.render.render(raw, epoch, name)
                if (self._measure(made) > self.budgets).any():
                    raise BadSample("longer than a pack's budget")
                return made
            except BadSample as error:
                self.skipped.append((name, raw.id, str(error)))
                self.reasons[str(error)] += 1
                self.damaged += 1
                if self.tried >= self.config.min_tried and self.damaged > self.config.max_skip_rate * self.tried:
                    raise TooManyBad(self._complaint()) from None

    def _complaint(self) -> str:
        reason, count = self.reasons.most_common(1)[0]
        return (
            f"data.sets: {self.damaged} of {self.tried} samples had to be left out, {count} of them: {reason}; see "
            f"{SKIPPED} beside the run, repair the sets or raise data.shards.max_skip_rate"
        )

    def _measure(self, made: Example) -> np.ndarray:
        sizes = self.render.sizes(made) | {"all": len(made)}
        return np.asarray([sizes[name] for name in self.measures], dtype=float)

    def __iter__(self) -> Iterator[list[Example]]:
        """Packs, without end. ``state()`` taken between two of them tells where to go on. Raises: TooManyBad."""
        skip, self._given = self._given, 0
        held: tuple[Example, np.ndarray] | None = None
        before = self._place()
        while True:
            self._window_state = before
            examples: list[Example] = []
            sizes: list[np.ndarray] = []
            total = np.zeros(len(self.budgets))
            while True:
                if held is None:
                    before = self._place()
                    made = self._draw()
                    held = made, self._measure(made)
                if examples and (total + held[1] > _FILL * self.config.window * self.budgets).any():
                    break
                examples.append(held[0])
                sizes.append(held[1])
                total, held = total + held[1], None
            packs = balance(np.stack(sizes), self.budgets)
            if skip:  # this window was begun before the interruption, which noted what it left out
                self.skipped.clear()
            rng = np.random.default_rng([self.seed, self.reader, self._window_state["drawn"]])
            for index in rng.permutation(len(packs)):
                self._given += 1
                if self._given > skip:
                    yield [examples[number] for number in packs[int(index)]]
            skip, self._given = 0, 0


class TooManyBad(Exception):
    """More samples are damaged than the config allows; the message says which and why."""


@dataclass(frozen=True)
class ShardPacks:
    """A training set that reads by itself: ``emova_train.core.loop.fit`` asks it for the batches of its process.

    Attributes:
        mixture: sets with their shares of the samples.
        make_render: makes the renderer, once in each worker process.
        pack_tokens: the most tokens in a pack.
    """

    mixture: Sequence[tuple[ShardSet, float]]
    make_render: Callable[[], RecordRenderer]
    config: ShardConfig
    pack_tokens: int

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
        )


class _Readers(IterableDataset):
    """What torch's DataLoader sees: in each worker, the deliveries of that worker's reader."""

    def __init__(self, loader: ShardLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        yield from self.loader.deliver(info.id if info else 0)


class ShardLoader:
    """The batches of one rank; ``save`` and ``load`` keep its position beside a checkpoint.

    Args:
        make_render: makes the renderer, once in each worker process.
        collate: list of packs to a batch.
        batch_size: packs a batch.
        total: batches of the whole run.
        output: folder that ``skipped-samples.jsonl`` is written to.
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
    ) -> None:
        self.mixture, self.make_render, self.config, self.collate = mixture, make_render, config, collate
        self.pack_tokens, self.batch_size, self.seed, self.total = pack_tokens, batch_size, seed, total
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
        reader = PackReader(
            self.mixture, self.make_render(), self.config, pack_tokens=self.pack_tokens, seed=self.seed,
            reader=self.rank * max(self.workers, 1) + own, readers=self.readers,
        )  # fmt: skip
        if own in self.states:
            reader.restore(self.states[own])
        packs = iter(reader)
        while True:
            try:
                chosen = [next(packs) for _ in range(self.batch_size)]
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
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"data-{self.rank}.json").write_text(json.dumps(content), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on where a checkpoint was written.

        With another number of ranks or workers the same order cannot go on; the sets are then read anew in another
        order, which is said on stderr.

        Raises:
            InputError: the checkpoint has no position, or one of other sets.
        """
        path = folder / f"data-{self.rank}.json"
        paths = [path] if path.is_file() else sorted(folder.glob("data-*.json"))
        try:
            content = json.loads(paths[0].read_text(encoding="utf-8"))
            self.position, self.seed = int(content["position"]), int(content["seed"])
            if content["readers"] == self.readers and path.is_file():
                self.states = {int(reader): state for reader, state in content["states"].items()}
            else:
                self.seed += 1 + self.position
                print(
                    f"{folder}: it was written by {content['readers']} readers of the data, now there are "
                    f"{self.readers}; the sets are read from their start in another order",
                    file=sys.stderr,
                )
        except (IndexError, OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{folder}: it has no position in the data; resume from one of a run on sets") from None
        self._forget(self.position)

    def _forget(self, position: int) -> None:
        """Drop skips that were noted behind ``position``: they will be noted again."""
        if self.rank == 0 and self.skipped_path.is_file():
            lines = self.skipped_path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["batch"] < position]
            write_text(self.skipped_path, "".join(kept))
