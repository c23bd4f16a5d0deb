"""Laws of reading sets at scale: every sample once, in a fixed order, resumed as if never stopped, damage counted."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emova.core.errors import InputError
from emova_data.records.records import Part
from emova_train.data.bin_packing import balance
from emova_train.data.examples import NOTHING, TEXT, TRANSCRIPT, UNITS
from emova_train.data.pack_reader import ShardConfig
from emova_train.data.packing import collate
from emova_train.data.records import RecordConfig, RecordRenderer
from emova_train.data.sample_reader import SKIPPED, BadSample
from emova_train.data.shards import Bad, Raw, SetReader, Shard, find_mixture, find_set, own_shards, read_shard
from emova_train.data.stream import ShardLoader
from emova_train.stages.losses.ctc import CTC, CTCConfig
from emova_train.stages.losses.tokens import LossWeights
from tests.train.fixtures_sets import write_sets

MIXTURE = {"pictures": 1.0, "speech": 1.0, "text": 2.0, "omni": 0.5}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


def ids(readers: list[SetReader], count: int) -> list[list[str]]:
    return [[reader.next().id for _ in range(count)] for reader in readers]


@pytest.mark.parametrize("readers", [1, 2, 3, 5, 7, 10])
def test_readers_share_a_set_without_overlap(sets: Path, readers: int) -> None:
    source = find_set(sets, "speech")
    seen: Counter[str] = Counter()
    for number in range(readers):
        reader = SetReader(source, seed=3, reader=number, readers=readers, block=4)
        while reader.epoch == 0:
            before = reader.state()
            sample = reader.next()
            if reader.epoch == 0:
                seen[sample.id] += 1
            else:
                assert before[0] == 0
    assert len(seen) == source.records == 40 and set(seen.values()) == {1}


def test_pieces_of_all_readers_hold_every_sample_once() -> None:
    for count in range(1, 7):
        for readers in range(1, 12):
            seen: Counter[tuple[int, int]] = Counter()
            for reader in range(readers):
                for shard, first, step, _ in own_shards(count, range(count), reader, readers):
                    seen.update((shard, at) for at in range(first, 20, step))
            assert set(seen.values()) == {1} and len(seen) == 20 * count


def test_the_order_is_the_seeds_and_changes_with_the_epoch(sets: Path) -> None:
    def order(seed: int) -> list[str]:
        reader = SetReader(find_set(sets, "text"), seed=seed, reader=0, readers=1, block=4)
        return ids([reader], 80)[0]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)[:40]) == sorted(order(1)[40:]) and order(1)[:40] != order(1)[40:]


@pytest.mark.parametrize("stop", [0, 1, 7, 8, 39, 40, 61])
def test_a_reader_goes_on_where_it_stood(sets: Path, stop: int) -> None:
    def fresh() -> SetReader:
        return SetReader(find_set(sets, "pictures"), seed=0, reader=1, readers=2, block=3)

    first, second = fresh(), fresh()
    ids([first], stop)
    second.restore(first.state())
    assert ids([first], 30) == ids([second], 30)


@pytest.mark.parametrize("seed", range(4))
def test_packs_keep_their_budgets_and_lose_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.stack([rng.integers(5, 200, 90), rng.integers(0, 60, 90)], axis=1).astype(float)
    budgets = np.asarray([512.0, 130.0])
    packs = balance(sizes, budgets)
    assert sorted(sum(packs, [])) == list(range(90))
    filled = np.stack([sizes[pack].sum(axis=0) for pack in packs])
    assert (filled <= budgets).all()
    fewest = np.ceil((sizes / budgets).sum(axis=0).max())
    assert len(packs) <= fewest + 2
    fullest = (filled / budgets).max(axis=1)
    assert fullest.min() > 0.85 * fullest.max()


def loader(sets: Path, output: Path, processor: Any, **changes: Any) -> ShardLoader:
    config = changes.pop("config", ShardConfig(window=3, block=4, budgets={"image": 40}))
    keywords = {"pack_tokens": 300, "batch_size": 1, "seed": 5, "total": 24, "output": output, **changes}
    return ShardLoader(
        find_mixture(sets, MIXTURE),
        lambda: RecordRenderer(processor, RecordConfig(), seed=5, max_tokens=300),
        config,
        lambda packs: collate(packs, LossWeights(prompt_text=0.5, prompt_share=0.5)),
        **keywords,
    )


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_uninterrupted(sets: Path, tmp_path: Path, tiny_processor, workers: int) -> None:
    whole = list(loader(sets, tmp_path / "a", tiny_processor, workers=workers))
    stopped = loader(sets, tmp_path / "b", tiny_processor, workers=workers)
    batches = iter(stopped)
    part = [next(batches) for _ in range(7)]
    stopped.save(tmp_path)
    del batches
    resumed = loader(sets, tmp_path / "b", tiny_processor, workers=workers)
    resumed.load(tmp_path)
    part += list(resumed)
    assert len(part) == len(whole) == 24
    assert all(same(one, other) for one, other in zip(whole, part, strict=True))


def test_ranks_read_different_samples_and_mix_by_weight(sets: Path, tmp_path: Path, tiny_processor) -> None:
    both = [list(loader(sets, tmp_path, tiny_processor, rank=rank, world=2)) for rank in (0, 1)]
    assert not any(same(one, other) for one, other in zip(*both, strict=True))
    reader = loader(sets, tmp_path, tiny_processor)
    shares = dict((source.name, share) for source, share in reader.mixture)
    assert shares["text"] == pytest.approx(2 / 4.5) and sum(shares.values()) == pytest.approx(1)


def test_another_number_of_readers_starts_anew_and_says_so(sets, tmp_path, tiny_processor, capsys) -> None:
    first = loader(sets, tmp_path, tiny_processor)
    next(iter(first))
    first.save(tmp_path)
    second = loader(sets, tmp_path, tiny_processor, rank=1, world=2)
    second.load(tmp_path)
    assert second.position == 1 and "another order" in capsys.readouterr().err
    assert len(list(second)) == 23
    with pytest.raises(InputError, match="no position in the data"):
        second.load(tmp_path / "nowhere")


# Damage -----------------------------------------------------------------------------------------------------------


def test_a_shard_cut_short_costs_only_what_is_missing(sets: Path, tmp_path: Path) -> None:
    shard = find_set(sets, "pictures").shards[0]
    whole = list(read_shard(shard))
    assert all(isinstance(sample, Raw) for sample in whole)
    content = shard.path.read_bytes()
    for length in (0, 100, 512, 1600, len(content) // 2, len(content) - 5000, len(content) - 1024):
        path = tmp_path / "cut.tar"
        path.write_bytes(content[:length])
        found = list(read_shard(Shard(path, shard.records, shard.size)))
        assert len(found) == len(whole)
        good = [sample for sample in found if isinstance(sample, Raw)]
        assert [sample.id for sample in good] == [sample.id for sample in whole[: len(good)]]
        assert all(isinstance(sample, Bad) and sample.reason == "a shard cut short" for sample in found[len(good) :])


def test_damage_is_skipped_counted_and_logged_by_id(sets: Path, tmp_path: Path, tiny_processor) -> None:
    copy = shutil.copytree(sets, tmp_path / "sets")
    shard = copy / "text" / "text-train-000001.jsonl"
    lines = shard.read_text().splitlines(keepends=True)
    broken = json.loads(lines[2])
    broken["messages"][0]["role"] = "robot"
    alone = json.loads(lines[3])
    alone["messages"] = alone["messages"][:1]
    shard.write_text("".join([lines[0], '{"id": \n', json.dumps(broken) + "\n", json.dumps(alone) + "\n", *lines[4:]]))
    read = loader(copy, tmp_path, tiny_processor, config=ShardConfig(window=3, block=4, max_skip_rate=0.5), total=40)
    assert len(list(read)) == 40
    rows = [json.loads(line) for line in (tmp_path / SKIPPED).read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in rows}
    assert reasons == {
        "text-train-000001.jsonl/1": "a record that is no JSON",
        "t10": "an unknown role, robot",
        "t11": "a missing turn",
    }
    numbers = read.counts()
    assert numbers["samples_skipped"] == len(rows) and numbers["samples_tried"] > 100
    # An interrupted run notes each of them once as well.
    again = loader(
        copy, tmp_path / "b", tiny_processor, config=ShardConfig(window=3, block=4, max_skip_rate=0.5), total=40
    )
    batches = iter(again)
    for _ in range(23):
        next(batches)
    again.save(tmp_path)
    for _ in range(9):  # lost by the kill
        next(batches)
    resumed = loader(
        copy, tmp_path / "b", tiny_processor, config=ShardConfig(window=3, block=4, max_skip_rate=0.5), total=40
    )
    resumed.load(tmp_path)
    list(resumed)
    assert (tmp_path / "b" / SKIPPED).read_text() == (tmp_path / SKIPPED).read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_too_much_damage_ends_the_run(sets: Path, tmp_path: Path, tiny_processor, workers: int) -> None:
    copy = shutil.copytree(sets, tmp_path / "sets")
    for shard in (copy / "pictures").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:4000])
    config = ShardConfig(window=3, block=4, max_skip_rate=0.1, min_tried=20)
    with pytest.raises(
        InputError, match=r"(?s)^data.sets: \d+ of \d+ .*: a shard cut short; see skipped-samples.jsonl"
    ):
        list(loader(copy, tmp_path, tiny_processor, config=config, workers=workers))
    assert (tmp_path / SKIPPED).is_file()


def test_unknown_and_unfinished_sets_are_named(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set 'pictres' is not in .*; did you mean pictures\?"):
        find_mixture(sets, {"pictres": 1.0})
    with pytest.raises(InputError, match="there are none"):
        find_mixture(tmp_path, {"x": 1.0})
    with pytest.raises(InputError, match="nothing to read"):
        find_mixture(sets, {"text": 0.0})
    with pytest.raises(InputError, match="text has -1 passes"):
        find_mixture(sets, {"text": -1.0})
    (tmp_path / "half").mkdir()
    progress = json.loads((sets / "text" / "progress.json").read_text())
    (tmp_path / "half" / "progress.json").write_text(json.dumps({**progress, "finished": False}))
    with pytest.raises(InputError, match="its conversion has not ended"):
        find_set(tmp_path, "half")
    (tmp_path / "half" / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(InputError, match="text-train-000000.jsonl: missing"):
        find_set(tmp_path, "half")


# Records ----------------------------------------------------------------------------------------------------------


def renderer(processor: Any, **changes: Any) -> RecordRenderer:
    return RecordRenderer(processor, RecordConfig(**changes), seed=0, max_tokens=300)


def raw(sets: Path, name: str, at: int = 0) -> Raw:
    sample = list(read_shard(find_set(sets, name).shards[0]))[at]
    assert isinstance(sample, Raw)
    return sample


def test_records_become_what_the_tasks_are(sets: Path, tiny_processor) -> None:
    ids = tiny_processor.token_ids
    hears = renderer(tiny_processor, speak_share=0.0).render(raw(sets, "speech"), 0)
    assert set(hears.kinds[hears.ids == ids.speech_end].tolist()) == {NOTHING} and TRANSCRIPT in hears.kinds
    heard = collate([[hears]], LossWeights(), [CTC(CTCConfig(0.5))])["ctc_spans"]
    assert (
        len(heard) == 1 and heard[0, 1] - heard[0, 0] == 11
    )  # ten units and their end, for emova_train.stages.losses.ctc
    says = renderer(tiny_processor, speak_share=1.0).render(raw(sets, "speech"), 0)
    assert (says.kinds == UNITS).sum() == 12 and says.kinds[-1] == TEXT  # ten units and their marks; the end of turn
    omni = renderer(tiny_processor).render(raw(sets, "omni"), 0)
    assert omni.pixel_values is not None and (omni.kinds == UNITS).sum() == 9
    made = renderer(tiny_processor)
    assert made.sizes(omni) == {"image": 4, "speech": 16, "text": len(omni) - 20}
    asked = renderer(tiny_processor).render(raw(sets, "pictures"), 0)
    alone = renderer(tiny_processor, template="plain").render(raw(sets, "pictures"), 0)
    assert len(alone) < len(asked) and (alone.kinds == TEXT).sum() == (asked.kinds == TEXT).sum()


def test_documents_of_text_and_speech_are_learnt_whole(tiny_processor) -> None:
    content: list[Part] = [{"type": "text", "text": "The fox"}, {"type": "units", "units": [1, 2, 3], "text": "jumps"}]
    document = Raw("d", {"id": "d", "source": "s", "messages": [{"role": "document", "content": content}]}, {})
    made = renderer(tiny_processor).render(document, 0)
    assert (made.kinds == UNITS).sum() == 5 and (made.kinds != NOTHING).sum() >= 8


def turn(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


WORDS = {"type": "text", "text": "Hi."}
PICTURE = {"type": "image", "image": "0.png"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([turn("user", WORDS)], "a missing turn"),
        ([turn("assistant", WORDS), turn("user", WORDS)], "a missing turn"),
        ([turn("user", WORDS), turn("user", WORDS)], "a missing turn"),
        ([turn("robot", WORDS), turn("assistant", WORDS)], "an unknown role, robot"),
        ([turn("user", PICTURE, WORDS), turn("assistant", WORDS)], "an image placeholder without an image"),
        ([turn("user"), turn("assistant", WORDS)], "an empty message"),
        ([turn("user", {"type": "audio", "audio": "flac"}), turn("assistant", WORDS)], "speech without units"),
        ([turn("user", {"type": "units", "units": [4096]}), turn("assistant", WORDS)], "units outside the codebook"),
        ([turn("user", {"type": "video"}), turn("assistant", WORDS)], "speech without units"),
        ([turn("user", WORDS), turn("assistant", {"type": "text", "text": "word " * 400})], "longer than max_tokens"),
        ([turn("user", {"text": "Hi."}), turn("assistant", WORDS)], "not of the expected form"),
        ("no messages", "not of the expected form"),
    ],
)
def test_bad_conversations_are_named(tiny_processor, messages: Any, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        renderer(tiny_processor).render(Raw("x", {"id": "x", "source": "s", "messages": messages}, {}), 0)


def test_a_picture_that_lies_about_its_size_is_left_out(sets: Path, tiny_processor) -> None:
    good = raw(sets, "pictures")
    content = good.media["0.png"]
    for width, height in ((4000, 28), (0, 28), (100_000, 100_000)):
        header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
        lying = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        with pytest.raises(BadSample, match="an image that cannot be decoded"):
            renderer(tiny_processor).render(Raw("x", good.fields, {"0.png": lying}), 0)
