"""Every source format becomes records, from small hand-made fixtures; damage is counted by reason, and resumable."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from emova.core.errors import InputError
from emova_data.records.records import BadRecord, Draft, Record, Sample, conversation, message, reject, text
from emova_data.records.shard_writer import read_set, read_shard, shards_of
from emova_data.sources.convert import ConvertConfig, convert, set_statistics, state_of_source
from emova_data.sources.converters import CONVERTERS
from emova_data.sources.converters import rows as row_readers
from emova_data.sources.registry import DataSource, registry

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"

# format -> (converter, options, kept ids' last parts, reasons of what is left out)
FORMATS: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    "llava": (
        "llava", {"files": "chat.json", "images": "images"}, ["a", "j"],
        ["a missing file", "an image that cannot be decoded", "a path that leaves its folder",
         "an image placeholder without an image", "an image placeholder without an image", "a missing turn",
         "an unknown role", "an empty message", "no conversation"],
    ),
    "sharegpt4v": ("llava", {"files": "captions.json"}, ["sa_1"], []),
    "allava": ("llava", {"files": "**/ALLaVA-Caption-*.json"}, ["allava_laion_1", "allava_laion_1"], []),
    "sharegpt4o": ("llava", {"files": "image_conversations/*.jsonl", "images": "images"}, ["0"],
                   [row_readers.UNREADABLE]),
    "cambrian": ("llava", {"files": "part.jsonl"}, ["c1", "c2"], []),
    "cauldron": ("cauldron", {"files": "*/*.jsonl"}, ["0"],
                 ["an image that cannot be decoded", "not of the expected form"]),
    "onevision": ("llava", {"files": "*/*.jsonl"}, ["k1", "k2", "k3"], []),
    "synthdog": ("synthdog", {"files": "data/*.jsonl"}, ["0"], ["not of the expected form"]),
    "pairs": ("pairs", {"files": "rows.jsonl", "answer_field": "caption", "question": "Describe it."}, ["0"],
              ["a missing file"]),
    "magpie": ("magpie", {"files": "rows.jsonl"}, ["m1", "m2", "m3"], ["an empty message"]),
    "emova": ("llava", {"files": "*/rows.jsonl"}, ["i1", "s1", "s2"], ["a unit outside the codebook"]),
    "librispeech": ("librispeech", {}, ["19-198-0000"],
                    ["a missing file", "too short or too long", "audio that cannot be decoded", "silence"]),
    "libritts": ("libritts", {"sample_rate": 24000}, ["27_12_000001_000000"], ["a missing file"]),
    "aishell1": ("aishell", {"language": "zh"}, ["BAC009S0002W0122"], ["no transcript"]),
    "aishell2": ("aishell2", {"language": "zh"}, ["IC0001W0001"], ["a path that leaves its folder", "a missing file"]),
    "gigaspeech": ("gigaspeech", {"subset": "{XL}"}, ["POD1_S0"], ["no transcript", "a segment outside its recording"]),
    "wenetspeech": ("wenetspeech", {"language": "zh", "subset": "L"}, ["Y1_S0"], []),
}  # fmt: skip


def build_all(name: str) -> tuple[list[Record], list[str]]:
    converter, options, _, _ = FORMATS[name]
    records, reasons = [], []
    for draft in CONVERTERS[converter](FIXTURES / name, options):
        try:
            records.append(draft.build())
        except BadRecord as error:
            reasons.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError):
            reasons.append("not of the expected form")
    return records, reasons


def as_set(name: str, out: Path, **config: Any) -> list[Sample]:
    converter, options, _, _ = FORMATS[name]
    convert(CONVERTERS[converter](FIXTURES / name, options), out, name, config=ConvertConfig(**config))
    return list(read_set(out))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_becomes_records_and_its_damage_is_named(name: str) -> None:
    _, _, ids, reasons = FORMATS[name]
    records, left_out = build_all(name)
    assert [record.id.split(":")[-1].split("/")[-1] for record in records] == ids
    assert left_out == reasons
    for record in records:
        assert record.messages[-1]["role"] == "assistant"
        parts = [part for message in record.messages for part in message["content"]]
        named = [part.get("image") or part.get("audio") for part in parts if part["type"] in ("image", "audio")]
        assert named == [media.member for media in record.media]


def test_every_converter_of_the_registry_has_a_fixture() -> None:
    assert {entry.converter for entry in registry().values() if entry.converter} <= {f[0] for f in FORMATS.values()}
    assert set(CONVERTERS) == {f[0] for f in FORMATS.values()}


def test_pictures_keep_their_bytes_and_their_place(tmp_path: Path) -> None:
    first = as_set("llava", tmp_path / "llava", max_skip_rate=1.0)[0]
    assert first["media"]["0.jpg"] == (FIXTURES / "llava/images/00000/a.jpg").read_bytes()
    assert first["messages"][0]["content"] == [text("What is it?"), {"type": "image", "image": "0.jpg"}]
    rows = as_set("cauldron", tmp_path / "cauldron", max_skip_rate=1.0)[0]
    assert [part["type"] for part in rows["messages"][0]["content"]] == ["image", "image", "text"]
    assert Image.open(io.BytesIO(rows["media"]["1.png"])).getpixel((0, 0)) == (0, 0, 255)


def test_inline_units_become_parts() -> None:
    spoken = next(record for record in build_all("emova")[0] if record.id.endswith("s1"))
    question, answer = (m["content"] for m in spoken.messages)
    assert question[1] == {"type": "units", "units": [1, 22, 333]}
    assert answer[1]["units"] == [7, 7, 4095] and '"assistant response emotion": "happy"' in answer[0]["text"]


@pytest.mark.parametrize(
    ("name", "words", "rate", "seconds", "gender"),
    [
        ("librispeech", "When I was young", 16000, 0.2, "female"),
        ("libritts", '"Well," said he.', 24000, 0.2, "male"),
        ("aishell1", "而对楼市成交抑制", 16000, 0.2, None),
        ("aishell2", "厨房用品", 16000, 0.2, None),
        ("gigaspeech", "As they're leaving, can I come?", 16000, 0.4, None),
        ("wenetspeech", "你好 OK 吗", 16000, 0.5, None),
    ],
)
def test_speech_is_cut_and_brought_to_its_rate(name: str, words: str, rate: int, seconds: float, gender: Any) -> None:
    record = build_all(name)[0][0]
    samples, found = soundfile.read(io.BytesIO(record.media[0].content))
    assert found == rate and len(samples) == pytest.approx(seconds * rate, abs=2)
    assert record.extra["text"] == words == record.messages[1]["content"][0]["text"]
    assert record.extra.get("gender") == gender


def test_what_is_heard_in_a_large_corpus_serves_without_its_words(tmp_path: Path) -> None:
    """Segments whatever their transcripts are, and a recording that has none in pieces."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.standard_normal(16000 * 4) * 0.1, 16000)
    soundfile.write(tmp_path / "b.wav", rng.standard_normal(16000 * 7) * 0.1, 16000)
    segments = [
        {"sid": "S0", "begin_time": 0.5, "end_time": 2.0, "text_tn": "<MUSIC>", "subsets": ["{XL}"]},
        {"sid": "S1", "begin_time": 2.0, "end_time": 3.0, "text_tn": "HELLO", "subsets": ["{XS}"], "confidence": 0.1},
    ]
    audios = [{"aid": "A", "path": "a.wav", "segments": segments}, {"aid": "B", "path": "b.wav"},
              {"aid": "C", "path": "c.wav"}, {"aid": "D", "path": "../d.wav"}]  # fmt: skip
    for name, converter in (("GigaSpeech", "gigaspeech"), ("WenetSpeech", "wenetspeech")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"audios": audios}))
        made: dict[str, float] = {}
        left_out = []
        for draft in CONVERTERS[converter](tmp_path, {"unlabelled": True, "max_seconds": 3.0, "language": "zh"}):
            try:
                record = draft.build()
                made[record.id] = float(str(record.extra["seconds"]))
                assert record.extra["task"] == "recording" and record.extra["language"] == "zh"
                assert not record.extra["text"] and "phones" not in record.extra
            except BadRecord as error:
                left_out.append(str(error))
        assert made["S0"] == 1.5 and made["S1"] == 1.0
        assert sum(length for key, length in made.items() if key.startswith("B-")) == pytest.approx(7.0, abs=0.01)
        assert left_out == ["a missing file", "a path that leaves its folder"]
    chosen = [d.id for d in CONVERTERS["gigaspeech"](tmp_path, {"unlabelled": True, "subset": "{XS}"})]
    assert [key for key in chosen if key.startswith("S")] == ["S1"]
    assert {"gigaspeech-unlabelled", "wenetspeech-unlabelled"} <= set(registry())


def test_an_array_cut_short_costs_its_last_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": i, "words": "é" * 50} for i in range(20)]
    whole = json.dumps(rows, indent=1, ensure_ascii=False)
    path = tmp_path / "rows.json"
    for block in (7, 64, 1 << 20):
        monkeypatch.setattr(row_readers, "_BLOCK", block)
        path.write_text(whole, encoding="utf-8")
        assert list(row_readers.array_rows(path)) == rows
        path.write_text(whole[:-30], encoding="utf-8")
        assert list(row_readers.array_rows(path)) == [*rows[:-1], None]


def test_parquet_rows_are_those_of_jsonl(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": "a", "image": {"bytes": b"\x89PNG", "path": "a.png"}, "n": [1, 2]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(row_readers.parquet_rows(tmp_path / "rows.parquet")) == rows
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="cut short"):
        list(row_readers.parquet_rows(tmp_path / "cut.parquet"))


# --- the conversion itself --------------------------------------------------------------------------------------------
def numbered(count: int, bad: tuple[int, ...] = (), same: int = 0) -> list[Draft]:
    def build(i: int) -> Record:
        if i in bad:
            raise BadRecord("bad luck")
        label = i % same if same else i
        return Record(str(i), [message("user", text(f"Question {label}?")), message("assistant", text("Yes."))])

    return [Draft(str(i), partial(build, i)) for i in range(count)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 24, 30])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int) -> None:
    config = ConvertConfig(per_shard=4, max_skip_rate=1.0, deduplicate=True)
    drafts = numbered(31, bad=(3, 10, 11), same=23)
    convert(drafts, tmp_path / "whole", "x", config=config)

    def dying() -> Any:
        yield from itertools.islice(drafts, stop)
        raise Killed

    with pytest.raises(Killed):
        convert(dying(), tmp_path / "parts", "x", config=config)
    result = convert(drafts, tmp_path / "parts", "x", config=config)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert result.records == 31 - sum(result.skipped.values()) and result.skipped["bad luck"] == 3
    assert convert(numbered(0), tmp_path / "parts", "x", config=config) == result  # finished: nothing is read


def test_skips_are_listed_by_id(tmp_path: Path) -> None:
    result = convert(numbered(10, bad=(2, 5)), tmp_path, "x", config=ConvertConfig(max_skip_rate=1.0))
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines == [{"id": "2", "reason": "bad luck"}, {"id": "5", "reason": "bad luck"}]
    assert result.records == 8 and set_statistics(tmp_path)["skipped"] == {"bad luck": 2}


def test_too_much_damage_ends_the_run(tmp_path: Path) -> None:
    drafts = numbered(200, bad=tuple(range(0, 200, 5)))
    with pytest.raises(InputError, match="bad luck"):
        convert(drafts, tmp_path / "a", "x", config=ConvertConfig(max_skip_rate=0.1, min_tried=50))
    assert convert(drafts, tmp_path / "b", "x", config=ConvertConfig(max_skip_rate=0.3, min_tried=50)).records == 160
    with pytest.raises(InputError, match="no record"):
        convert(numbered(3, bad=(0, 1, 2)), tmp_path / "c", "x")


def test_copies_are_left_out_within_and_across_sets(tmp_path: Path) -> None:
    kept = as_set("magpie", tmp_path / "magpie", max_skip_rate=1.0, deduplicate=True)
    assert [record["id"].split(":")[-1] for record in kept] == ["m1", "m3"]
    convert(numbered(5), tmp_path / "first", "first")
    second = convert(numbered(8), tmp_path / "second", "second", against=[tmp_path / "first"])
    assert second.records == 3 and second.skipped == {"a copy of another record": 5}
    pictures = as_set("onevision", tmp_path / "onevision", deduplicate=True)
    assert [record["id"].split(":")[-1] for record in pictures] == ["k1", "k3"]


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    convert(numbered(5), tmp_path, "x")
    with pytest.raises(InputError, match="other settings"):
        convert(numbered(5), tmp_path, "x", config=ConvertConfig(per_shard=2))


def test_text_alone_becomes_jsonl_and_a_cut_shard_is_named(tmp_path: Path) -> None:
    convert(numbered(5), tmp_path / "text", "x", suffix=".jsonl", config=ConvertConfig(per_shard=2))
    assert [path.name for path in shards_of(tmp_path / "text")] == [f"x-train-{i:06d}.jsonl" for i in range(3)]
    assert [record["id"] for record in read_set(tmp_path / "text")] == list("01234")
    convert(numbered(5), tmp_path / "tar", "x")
    shard = shards_of(tmp_path / "tar")[0]
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError, match="damaged"):
        list(read_shard(shard))
    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("000000000.0.jpg"))
    with pytest.raises(InputError, match="damaged"):  # a sample without its record
        list(read_shard(shard))


def test_turns_are_checked() -> None:
    assert conversation([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")])[0]["role"] == "system"
    for turns in (
        [("assistant", "Hello")],
        [("user", "Hi")],
        [("user", "Hi"), ("system", "x"), ("assistant", "y")],
        [],
    ):
        with pytest.raises(BadRecord):
            conversation(turns)
    with pytest.raises(BadRecord, match="without a placeholder"):
        conversation([("user", "<image> Hi"), ("assistant", "Hello")], ["0.png", "1.png"])


def test_entries_are_complete() -> None:
    entries = registry()
    assert len(entries) >= 25
    for entry in entries.values():
        assert isinstance(entry, DataSource) and entry.licence and entry.citation and entry.size
        assert entry.converter or entry.access == "generated"
        assert entry.hub or entry.files or entry.note
        assert all(file.md5 or file.sha256 for file in entry.files)


def test_a_source_whose_media_were_repaired_is_read_again(tmp_path: Path) -> None:
    def broken(identities: str) -> list[Draft]:
        return [Draft(each, reject("a missing file")) for each in identities]

    mostly = [*numbered(3), *broken("abcde")]
    config = ConvertConfig(per_shard=2, max_skip_rate=0.5, min_tried=4)
    for drafts, words in ((broken("a"), "no record could be converted; 1 of 1: a missing file"), (mostly, "damaged")):
        out, fresh = tmp_path / words, tmp_path / f"fresh {words}"
        with pytest.raises(InputError, match=f"{words}.*repair the source"):
            convert(drafts, out, "x", config=config)
        assert convert(numbered(8), out, "x", config=config).records == 8
        convert(numbered(8), fresh, "x", config=config)
        assert files(out) == files(fresh)


def test_a_source_that_changed_is_converted_again(tmp_path: Path) -> None:
    origin, out, fresh = tmp_path / "source", tmp_path / "set", tmp_path / "fresh"
    (origin / "images").mkdir(parents=True)
    (origin / "a.jsonl").write_text("1")
    (origin / "images" / "a.png").write_bytes(b"media do not count")
    first = convert(numbered(15), out, "x", config=ConvertConfig(per_shard=5), made_from=state_of_source(origin))
    (origin / "images" / "b.png").write_bytes(b"nor do more of them")
    same = convert(numbered(9), out, "x", config=ConvertConfig(per_shard=5), made_from=state_of_source(origin))
    assert same == first and same.records == 15
    (origin / "a.jsonl").write_text("another")
    again = convert(numbered(9), out, "x", config=ConvertConfig(per_shard=5), made_from=state_of_source(origin))
    assert again.records == 9
    assert state_of_source(origin, {"voice": "a"}) != state_of_source(origin)  # another way to read it
    for path in (*origin.glob("*.jsonl"), origin / "images" / "b.png"):
        alone = state_of_source(origin)
        path.unlink()
        assert state_of_source(origin) != alone  # of recordings alone the sound is all there is
    (origin / "a.jsonl").write_text("another")
    again = convert(numbered(9), out, "x", config=ConvertConfig(per_shard=5), made_from=state_of_source(origin))
    convert(numbered(9), fresh, "x", config=ConvertConfig(per_shard=5), made_from=state_of_source(origin))
    assert files(out) == files(fresh)
