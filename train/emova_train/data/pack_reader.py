"""Packs of one reader: which samples it draws, in which order, and how it lays them together.

Two ways. By tokens: sets are drawn by chance, and a pack holds as many conversations as its budgets allow. By
conversations: a pack holds so many conversations exactly, and an epoch holds every sample of every set as often as the
mixture says, over all readers together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emova.core.errors import InputError
from emova_train.data.bin_packing import balance, deal
from emova_train.data.examples import Example
from emova_train.data.records import RecordConfig, RecordRenderer
from emova_train.data.sample_reader import BadSample, Deck, Place, SampleReader
from emova_train.data.shards import Raw, ShardSet

PASSES, TOKENS = "passes", "tokens"
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
        shares: what the number of a set in ``data.sets`` is where packs are filled: ``passes`` over it (its chance is
            that of its samples), or its share of the ``tokens``, which is then kept to as closely as samples allow.
    """

    root: str = "data/sets"
    budgets: dict[str, int] = field(default_factory=dict)
    window: int = 8
    block: int = 256
    max_skip_rate: float = 0.05
    min_tried: int = 200
    records: RecordConfig = field(default_factory=RecordConfig)
    shares: str = PASSES

    def __post_init__(self) -> None:
        if self.shares not in (PASSES, TOKENS):
            raise InputError(f"data.shards.shares={self.shares}: unknown; give {PASSES} or {TOKENS}")
        for name, budget in self.budgets.items():
            if name not in ("text", "image", "speech") or budget < 1:
                raise InputError(f"budgets.{name}={budget}: budgets are of text, image and speech, and at least 1")
        for name in ("window", "block", "min_tried"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")


class PackReader(SampleReader[Example]):
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
        super().__init__(
            mixture, seed=seed, reader=reader, readers=readers, block=config.block, min_tried=config.min_tried,
            max_skip_rate=config.max_skip_rate, passes=passes if conversations else None,
            by_tokens=config.shares == TOKENS,
        )  # fmt: skip
        self.render, self.config, self.conversations = render, config, conversations
        self.measures = ("all", *config.budgets)
        self.budgets = np.asarray([pack_tokens, *config.budgets.values()], dtype=float)

    def made(self, raw: Raw, epoch: int, source: str) -> Example:
        example = self.render.render(raw, epoch, source)
        if (self._measure(example) > self.budgets).any():
            raise BadSample("longer than a pack's budget")
        return example

    def tokens(self, made: Example) -> int:
        return len(made)

    def _measure(self, made: Example) -> np.ndarray:
        sizes = self.render.sizes(made) | {"all": len(made)}
        return np.asarray([sizes[name] for name in self.measures], dtype=float)

    def __iter__(self) -> Iterator[list[Example]]:
        """Packs, without end. ``state()`` taken between two of them tells where to go on. Raises: TooManyBad."""
        skip, self.given = self.given, 0
        for begun, packs in self._counted() if self.conversations else self._filled():
            self.begun = begun
            if skip:  # this window was begun before the interruption, which noted what it left out
                self.skipped.clear()
            rng = np.random.default_rng([self.seed, self.reader, begun["drawn"]])
            for index in rng.permutation(len(packs)):
                self.given += 1
                if self.given > skip:
                    yield packs[int(index)]
            skip, self.given = 0, 0

    def _filled(self) -> Iterator[tuple[Place, list[list[Example]]]]:
        """Windows of packs that are full by their budgets, each with the place where it began."""
        held: tuple[Example, np.ndarray] | None = None
        before = self.place()
        while True:
            begun = before
            examples: list[Example] = []
            sizes: list[np.ndarray] = []
            total = np.zeros(len(self.budgets))
            while True:
                if held is None:
                    before = self.place()
                    made = self.draw()
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
            begun = self.place()
            assert isinstance(self.chooser, Deck)
            packs = min(self.config.window, -(-self.chooser.left // each))
            examples = [self.draw() for _ in range(packs * each)]
            sizes = np.stack([self._measure(each) for each in examples])
            yield begun, [[examples[at] for at in pack] for pack in deal(sizes, self.budgets, each)]
