"""Batches are counted in conversations: a step holds its global batch, an epoch every sample, packed or not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emova.core.errors import InputError
from emova_train.core.config import RunConfig
from emova_train.core.metrics import read
from emova_train.core.schedule import schedule
from emova_train.data.bin_packing import deal
from emova_train.data.examples import UNITS, Example
from emova_train.data.mixture import PackedMixture
from emova_train.data.pack_reader import ShardConfig
from emova_train.data.records import RecordConfig, RecordRenderer
from emova_train.data.shards import Raw, Shard, find_mixture, own_range, range_pieces
from emova_train.data.stream import ShardLoader, ShardPacks
from emova_train.stages.config import RatesConfig
from emova_train.stages.data import DataConfig, with_epochs
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.program import train
from emova_train.stages.validation import SampleConfig
from tests.train.fixtures_sets import write_sets
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


class Named(RecordRenderer):
    """Keeps the record's id and whether it is spoken in an example's task."""

    def render(self, raw: Raw, epoch: int, task: str = "") -> Example:
        made = super().render(raw, epoch, task)
        return replace(made, task=f"{raw.id} {'spoken' if UNITS in made.kinds else ''}".strip())


def loader(sets: Path, output: Path, processor: Any, passes: dict[str, float], **changes: Any) -> ShardLoader:
    keywords = {"pack_tokens": 300, "batch_size": 9, "seed": 5, "total": 20, "output": output, "conversations": 4}
    both = changes.pop("both", False)
    return ShardLoader(
        find_mixture(sets, passes),
        lambda: Named(processor, RecordConfig(both_directions=both), seed=5, max_tokens=300),
        ShardConfig(window=3, block=4),
        lambda packs: [each.task for pack in packs for each in pack],  # type: ignore[arg-type,return-value]
        passes=passes,
        **{**keywords, **changes},
    )


@pytest.mark.parametrize(("world", "each"), [(1, 8), (2, 4), (4, 2), (8, 1), (5, 8)])
def test_an_epoch_holds_every_conversation_once(
    sets: Path, tmp_path: Path, tiny_processor, world: int, each: int
) -> None:
    """160 conversations in steps of ``world x each``, on any number of processes."""
    passes = {"pictures": 1.0, "speech": 1.0, "text": 1.0, "omni": 1.0}
    steps = 160 // (world * each)
    ranks = [
        list(loader(sets, tmp_path, tiny_processor, passes, rank=rank, world=world, conversations=each, total=steps))
        for rank in range(world)
    ]
    for step in range(steps):
        assert [len(batches[step]) for batches in ranks] == [each] * world
    seen = Counter(name.split()[0] for batches in ranks for batch in batches for name in batch)
    assert len(seen) == 160 and set(seen.values()) == {1}


def test_passes_are_kept_exactly_over_epochs(sets: Path, tmp_path: Path, tiny_processor) -> None:
    passes = {"pictures": 0.5, "speech": 2.0, "text": 1.0, "omni": 0.25}  # 20 + 80 + 40 + 10 an epoch
    ranks = [
        list(loader(sets, tmp_path, tiny_processor, passes, rank=rank, world=2, conversations=5, total=60))
        for rank in range(2)
    ]
    counts = [Counter(name[0] for batches in ranks for batch in batches[:end] for name in batch) for end in (15, 60)]
    assert counts[0] == {"p": 20, "s": 80, "t": 40, "o": 10}
    assert counts[1] == {name: 4 * count for name, count in counts[0].items()}
    once = Counter(name for batches in ranks for batch in batches for name in batch if name[0] == "o")
    assert set(once.values()) == {1}  # four quarters are the whole


def test_both_directions_of_speech_are_seen_in_two_passes(sets: Path, tmp_path: Path, tiny_processor) -> None:
    batches = list(loader(sets, tmp_path, tiny_processor, {"speech": 2.0}, both=True, total=20))
    seen = Counter(name for batch in batches for name in batch)
    wanted = {f"s{number}{way}" for number in range(40) for way in ("", " spoken")}
    assert set(seen) == wanted and set(seen.values()) == {1}
    first = [name.endswith("spoken") for batch in batches[:10] for name in batch]
    assert 8 < sum(first) < 32  # not one direction first and then the other


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_uninterrupted(sets: Path, tmp_path: Path, tiny_processor, workers: int) -> None:
    passes = {"pictures": 1.0, "speech": 2.0, "omni": 0.3}
    whole = list(loader(sets, tmp_path / "a", tiny_processor, passes, workers=workers, total=40))
    stopped = loader(sets, tmp_path / "b", tiny_processor, passes, workers=workers, total=40)
    batches = iter(stopped)
    part = [next(batches) for _ in range(17)]
    stopped.save(tmp_path)
    del batches
    resumed = loader(sets, tmp_path / "b", tiny_processor, passes, workers=workers, total=40)
    resumed.load(tmp_path)
    assert part + list(resumed) == whole
    with pytest.raises(InputError, match="a pass held 4 conversations, now packs full of tokens"):
        loader(sets, tmp_path, tiny_processor, passes, conversations=0, workers=workers).load(tmp_path)


def test_a_run_that_counted_packs_goes_on_as_it_was_or_not_at_all(sets: Path, tmp_path: Path, tiny_processor) -> None:
    passes = {"pictures": 1.0, "text": 1.0}
    old = loader(sets, tmp_path, tiny_processor, passes, conversations=0)
    next(iter(old))
    old.save(tmp_path)
    kept = json.loads((tmp_path / "data-0.json").read_text())
    del kept["conversations"]  # as earlier versions wrote it
    (tmp_path / "data-0.json").write_text(json.dumps(kept))
    loader(sets, tmp_path, tiny_processor, passes, conversations=0).load(tmp_path)
    with pytest.raises(InputError, match="counted in packs, run.global_batch_size now counts conversations; go on"):
        loader(sets, tmp_path, tiny_processor, passes).load(tmp_path)


def test_ranges_of_all_readers_hold_every_sample_once_and_are_even() -> None:
    for records in ([7], [3, 5, 11], [40, 40, 1, 2], [1, 1, 1]):
        for readers in (1, 2, 3, 5, 16):
            shares = []
            for reader in range(readers):
                given = 0
                own = 0
                for count in records:
                    first, last = own_range(count, reader, readers, given)
                    own, given = own + last - first, given + count
                shares.append(own)
            assert sum(shares) == sum(records) and max(shares) - min(shares) <= 1
            for count in records:
                ranges = sorted(own_range(count, reader, readers, 2) for reader in range(readers))
                assert sum((list(range(*each)) for each in ranges), []) == list(range(count))
    shards = [Shard(Path(str(size)), size, 0) for size in (4, 3, 5)]
    assert range_pieces(shards, [2, 0, 1], 3, 10) == [(2, 3, 1, 5), (0, 0, 1, 4), (1, 0, 1, 1)]


@pytest.mark.parametrize("each", [1, 2, 4])
def test_packs_of_a_number_are_even_and_lose_nothing(each: int) -> None:
    sizes = np.random.default_rng(0).integers(20, 600, (8 * each, 1)).astype(float)
    packs = deal(sizes, np.asarray([900.0]), each)
    assert sorted(sum(packs, [])) == list(range(8 * each)) and {len(pack) for pack in packs} == {each}
    filled = np.asarray([sizes[pack].sum() for pack in packs])
    in_order = sizes.reshape(8, each).sum(axis=1)
    assert each == 1 or filled.max() - filled.min() < 0.6 * (in_order.max() - in_order.min())


def on_sets(folder: Path, sets: Path, name: str, **run: Any):  # noqa: F811
    base = stage(folder, name, rates=RatesConfig(llm=1e-3, projector=1e-3))
    data = DataConfig(
        sets={"pictures": 1.0, "text": 1.0, "nowhere": 0.0}, shards=ShardConfig(root=str(sets), window=2, block=4),
        pack_tokens=300, max_tokens=300,
    )  # fmt: skip
    values = {"global_batch_size": 16, "batch_size": 4, "epochs": 1.0, "schedule": "linear", "warmup_ratio": 0.2, **run}
    return replace(base, data=data, run=replace(base.run, **values), samples=SampleConfig(answers=0, losses_over=0))


def test_a_stage_runs_for_its_epochs(folder: Path, sets: Path) -> None:  # noqa: F811
    result = train(on_sets(folder, sets, "epoch"))
    rows = [row for row in read(folder / "epoch" / "metrics.jsonl") if row["kind"] == "train"]
    assert result.steps == 5 and rows[-1]["epoch"] == pytest.approx(1.0) and rows[-1]["samples_tried"] == 80
    assert [row["lr_llm"] for row in rows] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0])


def test_epochs_ask_for_what_can_be_counted(sets: Path) -> None:
    packs = ShardPacks(find_mixture(sets, {"text": 1.0}), lambda: None, ShardConfig(), 300, {"text": 2.5})  # type: ignore[arg-type,return-value]
    assert with_epochs(RunConfig(epochs=2, global_batch_size=8), packs).max_steps == 25
    assert with_epochs(RunConfig(epochs=2, global_batch_size=7), packs).max_steps == 29
    with pytest.raises(InputError, match="run.epochs=1: an epoch is of conversations; give run.global_batch_size"):
        RunConfig(epochs=1)
    with pytest.raises(InputError, match="a recipe's tasks are drawn without end"):
        with_epochs(RunConfig(epochs=1, global_batch_size=1), PackedMixture.__new__(PackedMixture))


def test_a_recipe_counts_conversations_too_and_refuses_an_old_run(folder: Path) -> None:  # noqa: F811
    def config(**run: Any):
        base = stage(folder, "recipe", rates=RatesConfig(llm=1e-3), samples=SampleConfig(answers=0, losses_over=1))
        return replace(
            base,
            data=replace(base.data, mixture={"talk_text": 1, "asr": 1}),
            run=replace(base.run, save_every=1, **run),
        )

    train(config(max_steps=1))  # as before: packs of 300 tokens
    with pytest.raises(InputError, match="its batches were counted in packs"):
        train(config(max_steps=2, global_batch_size=6, batch_size=3))
    train(config(max_steps=2, gradient_accumulation=2))
    counted = replace(config(max_steps=2, global_batch_size=6, batch_size=3))
    counted = replace(counted, run=replace(counted.run, output_dir=str(folder / "recipe-counted")))
    train(counted)
    rows = [row for row in read(folder / "recipe-counted" / "metrics.jsonl") if row["kind"] == "train"]
    assert [round(row["samples_per_s"] / row["steps_per_s"]) for row in rows] == [6, 6]
    with pytest.raises(InputError, match="began with weights.units=0.5"):
        train(replace(counted, weights=LossWeights(units=1.0)))


def test_the_schedules() -> None:
    def rates(**changes: Any) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        run = schedule(optimizer, RunConfig(warmup_ratio=0.1, **changes), 20)
        found = []
        for _ in range(20):
            found.append(float(run.get_last_lr()[0]))
            optimizer.step()
            run.step()
        return found

    line = rates(schedule="linear", final_lr_ratio=0.1)
    assert line[:3] == [0.0, 0.5, 1.0] and line[11] == pytest.approx(0.55) and np.diff(line, 2)[3:] == pytest.approx(0)
    assert rates()[11] == pytest.approx(0.5) and rates()[6] > rates(schedule="linear")[6]
    with pytest.raises(InputError, match="schedule=poly: unknown; give cosine or linear"):
        RunConfig(schedule="poly")
