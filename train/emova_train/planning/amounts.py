"""How many conversations a stage sees, and how long they are: read from the data, or from the registry where they are
not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova_data.records.selection import SELECTED
from emova_data.sources.convert import COPY
from emova_data.sources.registry import registry
from emova_train.data.examples import NOTHING, Example
from emova_train.data.records import RecordRenderer
from emova_train.data.sample_reader import BadSample
from emova_train.data.shards import Raw, ShardSet, find_set, read_shard
from emova_train.stages.data import DataConfig
from emova_train.stages.tasks import PICTURE_TASKS, SPEECH_TASKS

TRIED = 24
"""Samples of a set that are rendered to know how long they are."""
UNITS_SUFFIX = "-units"
TEXT_TOKENS, PICTURE_TEXT_TOKENS, SPEECH_TOKENS = 500, 250, 340
"""Assumed where no data are: of a conversation in text, of the text about a picture, of an utterance (12 s of units
and its words)."""


@dataclass(frozen=True)
class Amount:
    """A set's or task's share of an epoch.

    Attributes:
        conversations: an epoch has of it.
        tokens, learnt, tiles: of one on average, tiles with thumbnails.
        counted: whether its samples were counted, not taken from the registry.
        measured: whether the averages are of real samples.
        passes: over the set in an epoch.
        copies, selected: records that the set's conversion left out as copies, and by its source's ``select``.
    """

    name: str
    conversations: float
    tokens: float
    learnt: float
    tiles: float
    counted: bool
    measured: bool
    passes: float = 1.0
    copies: int = 0
    selected: int = 0


@dataclass(frozen=True)
class Assumed:
    """What a picture is taken to cost: ``tile_tokens`` tokens a tile, ``tiles`` of them."""

    tile_tokens: int
    max_tiles: int

    def amount(self, name: str, conversations: float, *, picture: bool, speech: bool, counted: bool) -> Amount:
        # Half of the most, and the thumbnail.
        tiles = (1 if self.max_tiles == 1 else self.max_tiles // 2 + 1) if picture else 0
        words = SPEECH_TOKENS if speech else PICTURE_TEXT_TOKENS if picture else TEXT_TOKENS
        return Amount(name, conversations, tiles * self.tile_tokens + words, words / 2, tiles, counted, False)


def pictured(config: DataConfig) -> bool:
    """Whether a stage's data have pictures; sets that are not there are taken to be what the registry says."""
    if not config.sets:
        return any(weight > 0 and task in PICTURE_TASKS for task, weight in config.mixture.items())
    root = Path(config.shards.root)
    return any(_has_pictures(root, name) for name, passes in config.sets.items() if passes > 0)


def _has_pictures(root: Path, name: str) -> bool:
    try:
        first = [raw for raw in islice(read_shard(find_set(root, name).shards[0]), TRIED) if isinstance(raw, Raw)]
    except InputError:
        return "image" in _modality(name)
    parts = (part for raw in first for message in raw.fields.get("messages", ()) for part in message["content"])
    return any(isinstance(part, dict) and part.get("type") == "image" for part in parts)


def _modality(name: str) -> tuple[str, ...]:
    entry = registry().get(name.removesuffix(UNITS_SUFFIX))
    return entry.modality if entry is not None else ("image", "text")


def of_sets(
    config: DataConfig, processor: EmovaProcessor | None, assumed: Assumed, seed: int
) -> tuple[list[Amount], list[str]]:
    """The amounts of ``data.sets``, and what is wrong with them, a line each.

    Args:
        processor: renders samples; None where there is no tokenizer yet.
    """
    root, found, problems = Path(config.shards.root), [], []
    for name, passes in config.sets.items():
        if passes <= 0:
            continue
        try:
            source = find_set(root, name)
        except InputError as error:
            problems.append(str(error))
            entry = registry().get(name.removesuffix(UNITS_SUFFIX))
            records = entry.records if entry is not None else 0
            modality = _modality(name)
            made = assumed.amount(
                name, records * passes, picture="image" in modality, speech="speech" in modality, counted=False
            )
            found.append(replace(made, passes=passes))
            continue
        examples: list[Example] = []
        if processor is not None:
            render = RecordRenderer(processor, config.shards.records, seed=seed, max_tokens=config.max_tokens)
            examples = list(_rendered(source, render))
            if not examples:
                problems.append(f"set {name}: none of its first samples can be used; convert or tokenise it again")
        if examples:
            made = _measured(name, source.records * passes, examples)
        else:
            modality = _modality(name)
            picture = _has_pictures(root, name)
            speech = "speech" in modality
            made = assumed.amount(name, source.records * passes, picture=picture, speech=speech, counted=True)
        copies = source.left_out.get(COPY, 0)
        selected = sum(count for reason, count in source.left_out.items() if reason.startswith(SELECTED))
        found.append(replace(made, passes=passes, copies=copies, selected=selected))
    for name in config.held_out:
        try:
            find_set(root, name)
        except InputError as error:
            problems.append(str(error))
    return found, problems


def of_shares(amounts: Sequence[Amount], shares: Mapping[str, float], tokens: float) -> list[Amount]:
    """``amounts`` where ``shares`` are of the tokens of a run of so many: how many conversations that takes."""
    whole = sum(shares[each.name] for each in amounts)
    found = []
    for each in amounts:
        records = each.conversations / each.passes
        wanted = shares[each.name] / whole * tokens / max(each.tokens, 1.0)
        found.append(replace(each, conversations=wanted, passes=wanted / records if records else 1.0))
    return found


def _rendered(source: ShardSet, render: RecordRenderer) -> Iterator[Example]:
    shards = [source.shards[at] for at in sorted({0, len(source.shards) // 2, len(source.shards) - 1})]
    for shard in shards:
        for raw in islice(read_shard(shard), -(-TRIED // len(shards))):
            try:
                if isinstance(raw, Raw):
                    yield render.render(raw, 0)
            except BadSample:
                continue


def _measured(name: str, conversations: float, examples: Sequence[Example]) -> Amount:
    tokens = float(np.mean([len(each) for each in examples]))
    learnt = float(np.mean([(each.kinds != NOTHING).sum() for each in examples]))
    tiles = float(np.mean([0 if each.pixel_values is None else len(each.pixel_values) for each in examples]))
    return Amount(name, conversations, tokens, learnt, tiles, True, True)


def of_tasks(config: DataConfig, conversations: float, assumed: Assumed) -> list[Amount]:
    """The amounts of ``data.mixture`` in a run of so many conversations, by the tasks' names alone."""
    whole = sum(weight for weight in config.mixture.values() if weight > 0)
    return [
        assumed.amount(
            task, conversations * weight / whole, picture=task in PICTURE_TASKS, speech=task in SPEECH_TASKS,
            counted=True,
        )
        for task, weight in config.mixture.items() if weight > 0
    ]  # fmt: skip
