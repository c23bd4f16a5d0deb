"""One reader's endless way through a mixture of sets: which set comes next, what is damaged, and where it stands.

What a sample becomes is the subclass's: an example of a pack (``pack_reader``), a clip of speech (``clip_reader``).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from emova.core.errors import InputError
from emova_train.data.shards import Bad, Raw, SetReader, ShardSet, own_range

Place = dict[str, Any]
"""Where a reader stands, as JSON keeps it."""
SKIPPED = "skipped-samples.jsonl"
_DRAWS = 1024  # choices of a set that are drawn at a time
SampleT = TypeVar("SampleT")


class BadSample(Exception):
    """A sample that is left out and counted; the message is the reason, the same words for the same fault."""


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


class ByTokens:
    """Always the set that is furthest behind its share of the tokens, so that after any sample no set is further from
    it than about a sample's length."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = dict(shares)
        self._taken = dict.fromkeys(shares, 0)

    def next(self) -> str:
        whole = sum(self._taken.values()) + 1
        return max(self.shares, key=lambda name: self.shares[name] * whole - self._taken[name])

    def took(self, name: str, tokens: int) -> None:
        """A good sample of the set came."""
        self._taken[name] += tokens

    def state(self) -> list[int]:
        return list(self._taken.values())

    def restore(self, state: Sequence[int]) -> None:
        self._taken = dict(zip(self.shares, state, strict=True))


class Deck:
    """An epoch's sets as a shuffled deck: each is in it as often as this reader has samples of it, times its passes.

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


class SampleReader(Generic[SampleT]):
    """The samples of one reader.

    Args:
        mixture: sets with their shares of the samples.
        block: neighbours in a shard that are shuffled with each other.
        max_skip_rate: the share of damaged samples above which the run ends, once ``min_tried`` were read.
        passes: over each set in an epoch, which then holds every sample exactly so often; None draws sets by chance.
        by_tokens: the shares are of the tokens, and are kept to.
    """

    def __init__(
        self,
        mixture: Sequence[tuple[ShardSet, float]],
        *,
        seed: int,
        reader: int,
        readers: int,
        block: int,
        max_skip_rate: float,
        min_tried: int,
        passes: Mapping[str, float] | None = None,
        by_tokens: bool = False,
    ) -> None:
        assert not (by_tokens and passes is not None)
        self.seed, self.reader = seed, reader
        self.max_skip_rate, self.min_tried = max_skip_rate, min_tried
        ranges = ranges_of([source for source, _ in mixture], reader, readers) if passes is not None else {}
        self.sets = {
            source.name: SetReader(
                source, seed=seed, reader=reader, readers=readers, block=block, own=ranges.get(source.name)
            )
            for source, _ in mixture
        }
        shares = {source.name: share for source, share in mixture}
        self.chooser: Chooser = ByTokens(shares) if by_tokens else ByChance(shares, seed, reader)
        if passes is not None:
            samples = {name: last - first for name, (first, last) in ranges.items()}
            self.chooser = Deck(samples, passes, seed, reader)
        self.drawn = self.tried = self.damaged = 0
        self.reasons: Counter[str] = Counter()
        self.skipped: list[tuple[str, str, str]] = []
        self.given = 0
        """Batches that were given of what is held (the window, the pool)."""
        self.begun: Place = {}
        """Where what is held began."""

    def made(self, raw: Raw, epoch: int, source: str) -> SampleT:
        """What a sample of the set ``source`` becomes. Raises: BadSample."""
        raise NotImplementedError

    def tokens(self, made: SampleT) -> int:
        """The tokens of a sample, where shares are counted in them."""
        raise NotImplementedError

    def place(self) -> Place:
        """Where the next sample is read."""
        sets = {name: reader.state() for name, reader in self.sets.items()}
        deck = {} if isinstance(self.chooser, ByChance) else {"deck": self.chooser.state()}
        return {"sets": sets, "drawn": self.drawn, "tried": self.tried, "reasons": dict(self.reasons), **deck}

    def state(self) -> Place:
        """Where what is held began, and how much of it was given."""
        return {**copy.deepcopy(self.begun), "given": self.given, "counts": [self.tried, self.damaged]}

    def restore(self, state: Place) -> None:
        """Go on behind what ``state`` was taken after."""
        if set(state["sets"]) != set(self.sets):
            raise InputError(f"data.sets: the checkpoint has {', '.join(state['sets'])}; give the same or resume=false")
        if ("deck" in state) == isinstance(self.chooser, ByChance):
            raise InputError("data.sets: the checkpoint counted shares otherwise; give the same or resume=false")
        for name, place in state["sets"].items():
            self.sets[name].restore(place)
        self.drawn, self.tried, self.reasons = state["drawn"], state["tried"], Counter(state["reasons"])
        self.damaged = sum(self.reasons.values())
        self.chooser.restore([self.drawn] if isinstance(self.chooser, ByChance) else state["deck"])
        self.given = state["given"]

    def draw(self) -> SampleT:
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
                made = self.made(raw, epoch, name)
                if isinstance(self.chooser, ByTokens):
                    self.chooser.took(name, self.tokens(made))
                return made
            except BadSample as error:
                self.skipped.append((name, raw.id, str(error)))
                self.reasons[str(error)] += 1
                self.damaged += 1
                if self.tried >= self.min_tried and self.damaged > self.max_skip_rate * self.tried:
                    raise TooManyBad(self._complaint()) from None

    def _complaint(self) -> str:
        reason, count = self.reasons.most_common(1)[0]
        return (
            f"data.sets: {self.damaged} of {self.tried} samples had to be left out, {count} of them: {reason}; see "
            f"{SKIPPED} beside the run, repair the sets or raise data.shards.max_skip_rate"
        )


def ranges_of(sources: Sequence[ShardSet], reader: int, readers: int) -> dict[str, tuple[int, int]]:
    """The samples of an epoch's order that are this reader's, of each set; none has more than one beyond another."""
    found, given = {}, 0
    for source in sources:
        found[source.name] = own_range(source.records, reader, readers, given)
        given += source.records
    return found


class TooManyBad(Exception):
    """More samples are damaged than the config allows; the message says which and why."""
