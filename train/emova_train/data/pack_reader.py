"""Packs of one reader: which samples it draws, in which order, and how it lays them together.

Two ways. By tokens: sets are drawn by chance, and a pack holds as many conversations as its budgets allow. By
conversations: a pack holds so many conversations exactly, and an epoch holds every sample of every set as often as the
mixture says, over all readers together.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emova.core.errors import InputError
from emova_train.data.bin_packing import balance, deal
from emova_train.data.examples import Example
from emova_train.data.records import BadSample, RecordConfig, RecordRenderer
from emova_train.data.shards import Bad, SetReader, ShardSet, own_range

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


class Chooser(Protocol):
    """Names the set that the next sample comes from."""

    def next(self) -> str: ...

    def state(self) -> list[int]: ...

    def restore(self, state: Sequence[int]) -> None: ...


class ByChance:
    """Each time one of the sets by its share."""

    def __init__(self, shares: Mapping[str, float], seed: int, reader: int) -> None:
        self.names, self.shares = list(shares), np.asarray(list(shares.values()))
        self._seed = [seed, reader]
        self._drawn = 0
        self._choices: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def next(self) -> str:
        block, at = divmod(self._drawn, _DRAWS)
        if self._choices[0] != block:
            rng = np.random.default_rng([*self._seed, block])
            self._choices = block, rng.choice(len(self.shares), size=_DRAWS, p=self.shares)
        self._drawn += 1
        return self.names[self._choices[1][at]]

    def state(self) -> list[int]:
        return [self._drawn]

    def restore(self, state: Sequence[int]) -> None:
        (self._drawn,) = state


class Deck:
    """An epoch's sets as a shuffled deck: each set is in it as often as this reader has samples of it, times its passes.

    What a fraction of a pass leaves over comes in a later epoch.

    Args:
        samples: of each set, those that are this reader's.
        passes: over each set in an epoch.

    Raises:
        InputError: there is no sample.
    """

    def __init__(self, samples: Mapping[str, int], passes: Mapping[str, float], seed: int, reader: int) -> None:
        self.names = list(samples)
        self._amounts = [samples[name] * passes[name] for name in self.names]
        self._seed = [seed, reader, 0xDEC]
        if not sum(self._amounts):
            raise InputError("data.sets: fewer conversations than readers; lower run.workers")
        self._epoch = self._at = 0
        self._cards = self._deal(0)
        self._turn()

    @property
    def left(self) -> int:
        """Samples up to the end of the epoch, at least 1."""
        return len(self._cards) - self._at

    def _deal(self, epoch: int) -> np.ndarray:
        counts = [int((epoch + 1) * each + 1e-9) - int(epoch * each + 1e-9) for each in self._amounts]
        cards = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        return np.random.default_rng([*self._seed, epoch]).permutation(cards)

    def next(self) -> str:
        name = self.names[self._cards[self._at]]
        self._at += 1
        self._turn()
        return name

    def _turn(self) -> None:
        while self._at == len(self._cards):
            self._epoch, self._at = self._epoch + 1, 0
            self._cards = self._deal(self._epoch)

    def state(self) -> list[int]:
        return [self._epoch, self._at]

    def restore(self, state: Sequence[int]) -> None:
        self._epoch, self._at = state
        self._cards = self._deal(self._epoch)
        self._turn()


class PackReader:
    """The endless packs of one reader.

    Args:
        mixture: sets with their shares of the samples.
        render: of a process of its own; makes examples.
        pack_tokens: the most tokens in a pack; where conversations are counted, of one of them.
        conversations: in a pack, exactly; 0 fills packs by tokens.
        passes: over each set in an epoch, where conversations are counted.
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
        conversations: int = 0,
        passes: Mapping[str, float] | None = None,
    ) -> None:
        self.render, self.config, self.seed, self.reader = render, config, seed, reader
        self.conversations = conversations
        ranges = _ranges([source for source, _ in mixture], reader, readers) if conversations else {}
        self.sets = {
            source.name: SetReader(
                source, seed=seed, reader=reader, readers=readers, block=config.block, own=ranges.get(source.name)
            )
            for source, _ in mixture
        }
        self.chooser: Chooser = ByChance({source.name: share for source, share in mixture}, seed, reader)
        if conversations:
            assert passes is not None
            samples = {name: last - first for name, (first, last) in ranges.items()}
            self.chooser = Deck(samples, passes, seed, reader)
        self.measures = ("all", *config.budgets)
        self.budgets = np.asarray([pack_tokens, *config.budgets.values()], dtype=float)
        self.drawn = self.tried = self.damaged = 0
        self.reasons: Counter[str] = Counter()
        self.skipped: list[tuple[str, str, str]] = []
        self._window_state: Place = {}
        self._given = 0

    def _place(self) -> Place:
        sets = {name: reader.state() for name, reader in self.sets.items()}
        return {
            "sets": sets, "drawn": self.drawn, "tried": self.tried, "reasons": dict(self.reasons),
            **({"deck": self.chooser.state()} if self.conversations else {}),
        }  # fmt: skip

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
        self.chooser.restore(state["deck"] if self.conversations else [self.drawn])
        self._given = state["given"]

    def _draw(self) -> Example:
        """The next good sample. Raises: TooManyBad."""
        while True:
            name = self.chooser.next()
            self.drawn += 1
            source = self.sets[name]
            raw = source.next()
            epoch = source.epoch  # that of the sample: the first of a new one begins it
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
        for begun, packs in self._counted() if self.conversations else self._filled():
            self._window_state = begun
            if skip:  # this window was begun before the interruption, which noted what it left out
                self.skipped.clear()
            rng = np.random.default_rng([self.seed, self.reader, begun["drawn"]])
            for index in rng.permutation(len(packs)):
                self._given += 1
                if self._given > skip:
                    yield packs[int(index)]
            skip, self._given = 0, 0

    def _filled(self) -> Iterator[tuple[Place, list[list[Example]]]]:
        """Windows of packs that are full by their budgets, each with the place where it began."""
        held: tuple[Example, np.ndarray] | None = None
        before = self._place()
        while True:
            begun = before
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
            yield begun, [[examples[at] for at in pack] for pack in balance(np.stack(sizes), self.budgets)]

    def _counted(self) -> Iterator[tuple[Place, list[list[Example]]]]:
        """Windows of packs of ``conversations`` each, as even as they get, each with the place where it began.

        A window ends where the epoch does, or in its last pack: nothing of the next comes earlier.
        """
        each = self.conversations
        while True:
            begun = self._place()
            assert isinstance(self.chooser, Deck)
            packs = min(self.config.window, -(-self.chooser.left // each))
            examples = [self._draw() for _ in range(packs * each)]
            sizes = np.stack([self._measure(each) for each in examples])
            yield begun, [[examples[at] for at in pack] for pack in deal(sizes, self.budgets, each)]


def _ranges(sources: Sequence[ShardSet], reader: int, readers: int) -> dict[str, tuple[int, int]]:
    """The samples of an epoch's order that are this reader's, of each set; no reader has more than one beyond another."""
    found, given = {}, 0
    for source in sources:
        found[source.name] = own_range(source.records, reader, readers, given)
        given += source.records
    return found


class TooManyBad(Exception):
    """More samples are damaged than the config allows; the message says which and why."""
