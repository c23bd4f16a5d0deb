"""Converted sets read from the disk: who reads which shard, in which order, and where a reader stands.

A set is a folder that ``emova data convert``, ``tokenise`` or ``synthesise`` filled: ``progress.json`` lists its shards
with their sizes. Tar shards are read by webdataset with the handlers named here; nothing is decoded by file name, so
nothing is ever unpickled. What is damaged comes out as ``Bad`` in its place: one broken sample costs only itself.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np

from emova.core.errors import InputError
from emova_data.records.records import Fields

PROGRESS = "progress.json"
CUT_SHORT = "a shard cut short"


@dataclass(frozen=True)
class Shard:
    """A shard and what its set's list says of it; ``size`` in bytes."""

    path: Path
    records: int
    size: int


@dataclass(frozen=True)
class ShardSet:
    """A converted set."""

    name: str
    shards: tuple[Shard, ...]
    units: str = ""
    """Whose units its speech is in (``emova.speech.tokenizer.units``); empty where it does not say."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reasons why its conversion left records out, and how many it left out for each."""

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


@dataclass(frozen=True)
class Raw:
    """One sample as it lies in its shard: the fields of its JSON, and the bytes of its media by member name.

    ``shard`` is the name of the shard's file: ids of two sets, or of two shards, may be equal.
    """

    id: str
    fields: Fields
    media: Mapping[str, bytes]
    shard: str = ""


@dataclass(frozen=True)
class Bad:
    """A sample that cannot be used, and why; the same words for the same fault."""

    id: str
    reason: str


def find_set(root: Path, name: str) -> ShardSet:
    """The converted set ``root/name``.

    Raises:
        InputError: there is none, it is not finished, or a shard is missing.
    """
    try:
        listed = json.loads((root / name / PROGRESS).read_text(encoding="utf-8"))
        shards = tuple(Shard(root / name / each["name"], each["records"], each["bytes"]) for each in listed["shards"])
        finished, units = bool(listed["finished"]), str(listed.get("units", ""))
        left_out = {str(reason): int(count) for reason, count in listed.get("skipped", {}).items()}
    except OSError:
        known = sorted(path.parent.name for path in root.glob(f"*/{PROGRESS}"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise InputError(f"set {name[:60]!r} is not in {root}; {hint} (`emova data convert` makes them)") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{root / name / PROGRESS}: damaged; convert the set again") from None
    if not finished or not shards:
        raise InputError(f"{root / name}: its conversion has not ended; run the command that makes it again")
    for shard in shards:
        if not shard.path.is_file():
            raise InputError(f"{shard.path}: missing; convert the set again, or copy it again")
    return ShardSet(name, shards, units, left_out)


def find_mixture(root: Path, passes: Mapping[str, float], *, of_tokens: bool = False) -> list[tuple[ShardSet, float]]:
    """The sets of a mixture with their shares of the samples: each set's size times its passes an epoch.

    Args:
        of_tokens: the numbers are shares of the tokens, whatever a set's size.

    Raises:
        InputError: a set is unknown, a number negative, or nothing is left.
    """
    found = []
    for name, times in passes.items():
        if not times >= 0 or math.isinf(times):
            raise InputError(f"data.sets: {name} has {times:g} passes; give 0 or more")
        if times > 0:  # one that is not wanted may be missing
            source = find_set(root, name)
            found.append((source, times if of_tokens else source.records * times))
    total = sum(weight for _, weight in found)
    if not total > 0:
        raise InputError("data.sets: nothing to read; give one set a number above 0")
    return [(source, weight / total) for source, weight in found]


def read_shard(shard: Shard) -> Iterator[Raw | Bad]:
    """All samples of a shard, in order; always ``shard.records`` of them, those that are missing as ``Bad``."""
    found = 0
    for found, sample in enumerate(_lines(shard) if shard.path.suffix == ".jsonl" else _tar(shard), 1):
        yield sample
        if found == shard.records:
            return
    for number in range(found, shard.records):
        yield Bad(f"{shard.path.name}/{number}", CUT_SHORT)


def _tar(shard: Shard) -> Iterator[Raw | Bad]:
    from webdataset import tariterators
    from webdataset.handlers import ignore_and_continue

    # A damaged archive ends early; what is then missing is counted by `read_shard`.
    handler = ignore_and_continue
    with shard.path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": shard.path.name, "stream": stream}], handler=handler)
        for sample in tariterators.group_by_keys(files, handler=handler):
            key = sample.pop("__key__")
            media = {name: data for name, data in sample.items() if isinstance(data, bytes)}
            yield _parsed(shard.path.name, key, media.pop("json", None), media)


def _lines(shard: Shard) -> Iterator[Raw | Bad]:
    with shard.path.open("rb") as lines:
        for number, line in enumerate(lines):
            yield _parsed(shard.path.name, str(number), line, {})


def _parsed(shard: str, key: str, content: bytes | None, media: Mapping[str, bytes]) -> Raw | Bad:
    """A sample, or ``Bad`` where its JSON is missing (it is written last, so a cut shows there) or broken."""
    place = f"{shard}/{key}"
    if content is None:
        return Bad(place, CUT_SHORT)
    try:
        fields = json.loads(content)
        return Raw(str(fields["id"]), fields, media, shard)
    except (ValueError, KeyError, TypeError):
        return Bad(place, "a record that is no JSON")


Piece = tuple[int, int, int, "int | None"]
"""What is read of a shard: its number, the first sample, the step, and the sample before which it ends."""


def own_shards(count: int, order: Sequence[int], reader: int, readers: int) -> list[Piece]:
    """The pieces of an epoch that ``reader`` of ``readers`` reads, whole shards where there are enough.

    The pieces of all readers hold every sample once. With fewer shards than readers, readers share a shard and take
    turns in it.
    """
    if count >= readers:
        return [(int(shard), 0, 1, None) for shard in order[reader::readers]]
    shard = reader % count
    sharers = len(range(shard, readers, count))
    return [(int(order[shard]), reader // count, sharers, None)]


def own_range(records: int, reader: int, readers: int, given: int = 0) -> tuple[int, int]:
    """The samples of a set's order, from the first up to the second number, that ``reader`` of ``readers`` reads.

    Args:
        given: samples of other sets that were given out before: what does not divide evenly goes to other readers
            from set to set, so that none has more than one sample beyond another.
    """
    each, left = divmod(records, readers)
    turn = (reader - given) % readers  # the first `left` turns take one more
    first = turn * each + min(turn, left)
    return first, first + each + (turn < left)


def range_pieces(shards: Sequence[Shard], order: Sequence[int], first: int, last: int) -> list[Piece]:
    """The pieces of the samples ``first`` to ``last`` (not included), counted along the shards in ``order``."""
    pieces: list[Piece] = []
    start = 0
    for shard in order:
        end = start + shards[shard].records
        if first < end and start < last:
            pieces.append((int(shard), max(first - start, 0), 1, min(last, end) - start))
        start = end
    return pieces


class SetReader:
    """One reader's endless way through a set; a new order of the shards each epoch, shuffled blocks inside them.

    Args:
        source: the set.
        seed: of the order.
        reader, readers: which of how many (ranks times workers).
        block: consecutive samples of a shard that are shuffled with each other; they are held in memory.
        own: the range of an epoch's order (``own_range``) that is read in place of whole shards.
    """

    def __init__(
        self, source: ShardSet, *, seed: int, reader: int, readers: int, block: int, own: tuple[int, int] | None = None
    ) -> None:
        assert 0 <= reader < readers and block > 0
        self.source = source
        self.block = block
        self._seed = [seed, crc32(source.name.encode())]
        self._place = (reader, readers)
        self._own = own
        self._epoch = self._piece = self._block = self._taken = 0
        self._shards = self._order(0)
        self._stream: Iterator[Raw | Bad] | None = None
        self._held: list[Raw | Bad] | None = None

    def _order(self, epoch: int) -> list[Piece]:
        order = np.random.default_rng([*self._seed, epoch]).permutation(len(self.source.shards))
        if self._own is not None:
            return range_pieces(self.source.shards, order.tolist(), *self._own)
        return own_shards(len(order), order.tolist(), *self._place)

    def state(self) -> list[int]:
        """Epoch, piece, block, samples taken of it: enough to go on exactly here."""
        return [self._epoch, self._piece, self._block, self._taken]

    def restore(self, state: Sequence[int]) -> None:
        """Go on where ``state`` was taken."""
        self._epoch, self._piece, self._block, self._taken = state
        self._shards = self._order(self._epoch)
        self._stream = self._held = None

    @property
    def epoch(self) -> int:
        return self._epoch

    def next(self) -> Raw | Bad:
        """The next sample. Raises: InputError: a whole epoch held nothing for this reader."""
        started = self._epoch
        while True:
            if self._held is None:
                self._held = self._read_block()
            if self._taken < len(self._held):
                self._taken += 1
                return self._held[self._taken - 1]
            full = len(self._held) == self.block
            self._held, self._taken = None, 0
            if full:
                self._block += 1
                continue
            self._block, self._stream = 0, None
            self._piece += 1
            if self._piece == len(self._shards):
                self._piece, self._epoch = 0, self._epoch + 1
                self._shards = self._order(self._epoch)
                if self._epoch > started + 1:
                    raise InputError(f"set {self.source.name}: fewer samples than readers; lower run.workers")

    def _read_block(self) -> list[Raw | Bad]:
        shard, first, step, end = self._shards[self._piece]
        if self._stream is None:
            skipped = first + self._block * self.block * step
            self._stream = islice(read_shard(self.source.shards[shard]), skipped, end, step)
        held = list(islice(self._stream, self.block))
        rng = np.random.default_rng([*self._seed, self._epoch, shard, first, self._block])
        return [held[index] for index in rng.permutation(len(held))]
