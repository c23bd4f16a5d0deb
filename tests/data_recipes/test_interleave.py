"""Interleaved speech and text: nothing of a text is lost, spans are what the reader says, and nothing can be forged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emova.core.errors import InputError
from emova.reply.format import LEAST_UNITS
from emova_data.records.documents import cut, places_of
from emova_data.records.records import Draft, Record, message, text
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, convert
from emova_data.sources.own import of_folder
from emova_data.synthesis import interleave
from emova_data.synthesis.interleave import InterleaveConfig
from emova_data.synthesis.speech_text import spoken
from emova_data.synthesis.text_to_units import ReadingConfig, TextToTokenModel, by_voice

ENGLISH, CHINESE = "The small cat sat on the old mat and slept. " * 8, "今天的天气很好，我们去公园散步。" * 8


def letters(texts: Sequence[str]) -> list[list[int]]:
    """Any reader: a unit for each letter."""
    return [[ord(letter) % 4096 for letter in each] for each in texts]


def write(folder: Path, *texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return folder


@pytest.mark.parametrize("lengths", ["poisson", "normal"])
@pytest.mark.parametrize(("share", "mean"), [(0.1, 3.0), (0.3, 10.0), (0.6, 5.0)])
def test_spans_cover_the_share_and_keep_apart(share: float, mean: float, lengths: str) -> None:
    config = InterleaveConfig(speech_share=share, span_words=mean, span_lengths=lengths, span_spread=1.0)
    counts, drawn = [], []
    for seed in range(20):
        spans = interleave.choose_spans(400, config, np.random.default_rng(seed))
        assert all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))
        counts.append(sum(end - first for first, end in spans) / 400)
        drawn += [end - first for first, end in spans]
    assert np.mean(counts) == pytest.approx(share, abs=0.06)
    assert np.mean(drawn) == pytest.approx(mean, rel=0.3)
    # The deviation of a Poisson distribution is the root of its mean; spans that do not fit are drawn again.
    assert np.std(drawn) == pytest.approx(np.sqrt(mean) if lengths == "poisson" else 1.0, rel=0.35)


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_documents_hold_the_whole_text_in_order_and_spans_are_what_is_read(tmp_path: Path, words: str) -> None:
    config = InterleaveConfig(str(write(tmp_path / "in", words, "short")), output=str(tmp_path / "out"), span_words=5.0)
    result = interleave.synthesise(config, letters)
    assert result.records == 1 and result.skipped == {"too short": 1}
    [document] = read_set(tmp_path / "out")
    pieces = document["messages"][0]["content"]
    assert "".join("".join(piece["text"] for piece in pieces).split()) == "".join(words.split())
    spans = [piece for piece in pieces if piece["type"] == "units"]
    assert spans
    for span in spans:
        said = spoken(span["text"], 100)
        assert said is not None and span["units"] == letters([said])[0]
    covered = sum(len(places_of(span["text"])) for span in spans) / len(places_of(words))
    assert document["speech_share"] == pytest.approx(covered, abs=1e-4) and 0.1 < covered < 0.6


@settings(max_examples=100, deadline=None)
@given(words=st.text(alphabet="ab. \n今。", max_size=300), most=st.integers(4, 30))
def test_pieces_joined_are_the_text(words: str, most: int) -> None:
    pieces = cut(words, most)
    assert "".join(pieces) == words and all(len(places_of(piece)) <= most for piece in pieces)


def test_long_texts_are_cut_after_a_sentence(tmp_path: Path) -> None:
    text_of_many = " ".join(f"Here is sentence {number}." for number in range(40))
    config = InterleaveConfig(
        str(write(tmp_path / "in", text_of_many)), output=str(tmp_path / "out"), min_words=10, max_words=50
    )
    found = list(read_set(Path(config.output))) if interleave.synthesise(config, letters).records else []
    wholes = ["".join(part["text"] for part in each["messages"][0]["content"]) for each in found]
    assert len(found) == 4 and all(whole.rstrip().endswith(".") for whole in wholes)
    assert [each["id"] for each in found] == [f"a/0.{number}" for number in range(4)]


def test_a_run_that_was_stopped_goes_on_to_the_same_shards(tmp_path: Path) -> None:
    texts = [f"Text {number} says something. {ENGLISH}" for number in range(9)]
    config = InterleaveConfig(str(write(tmp_path / "in", *texts)), output=str(tmp_path / "whole"), per_shard=2)
    interleave.synthesise(config, letters)
    left = 5

    def stopping(said: Sequence[str]) -> list[list[int]]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return letters(said)

    again = replace(config, output=str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        interleave.synthesise(again, stopping)
    interleave.synthesise(again, letters)
    shards = [sorted(Path(each.output).glob("*.jsonl")) for each in (config, again)]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]
    # Other settings make other documents, in the same folder too.
    assert interleave.synthesise(replace(again, speech_share=0.6), letters).records == 9
    assert np.mean([each["speech_share"] for each in read_set(Path(again.output))]) > 0.5


def test_a_converted_set_is_read_too(tmp_path: Path) -> None:
    turns = [message("user", text("Tell me about the cat.")), message("assistant", text(ENGLISH))]
    convert([Draft("a", lambda: Record("a", turns))], tmp_path / "set", "set", suffix=".jsonl", config=ConvertConfig())
    config = InterleaveConfig(str(tmp_path / "set"), output=str(tmp_path / "out"))
    assert interleave.synthesise(config, letters).records == 1
    [document] = read_set(tmp_path / "out")
    assert document["messages"][0]["content"][0]["text"].startswith("Tell me")
    # And plain text is a set of its own.
    from emova_data.cli_sources import convert_source

    source = of_folder(write(tmp_path / "plain", ENGLISH, "", "a b c"), "text", options={"max_words": 40}).source
    result = convert_source(source, tmp_path / "plain", tmp_path / "text", ConvertConfig(max_skip_rate=1.0))
    assert result.records == 3 and result.skipped == {"no text": 1}
    whole = [each["messages"][0]["content"][0]["text"] for each in read_set(tmp_path / "text")]
    assert "".join(whole[:2]) == ENGLISH


def test_a_checkpoint_reads_the_spans(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = InterleaveConfig(
        str(write(tmp_path / "in", "The small cat sat on the old mat and slept. " * 4)), span_words=3.0,
        model=str(tiny_checkpoint), reading=ReadingConfig(at_once=3),
    )  # fmt: skip
    documents: list = []
    for name, at_once in (("a", 3), ("b", 1)):
        interleave.synthesise(replace(config, output=str(tmp_path / name), reading=ReadingConfig(at_once=at_once)))
        documents += read_set(tmp_path / name)
    assert documents[0] == documents[1]
    spans = [part for part in documents[0]["messages"][0]["content"] if part["type"] == "units"]
    alone = TextToTokenModel(str(tiny_checkpoint), config.reading, config.seed)
    for span in spans:
        said = spoken(span["text"], 100)
        assert said is not None and alone([said]) == [span["units"]]
    with pytest.raises(InputError, match="model=CHECKPOINT, or tokenizer=FOLDER"):
        by_voice("", config.speech, 0)
    with pytest.raises(InputError, match="span_lengths"):
        replace(config, span_lengths="even")


def test_a_reader_says_at_least_so_many_units_a_letter(tiny_checkpoint: Path) -> None:
    texts = ["A cat.", "The old mat is there. And so is a cat that sleeps."]
    for rate in (12.5, 50.0):
        read = TextToTokenModel(str(tiny_checkpoint), ReadingConfig(unit_rate=rate))(texts)
        least = LEAST_UNITS * rate / 25
        assert all(
            len(units) >= least * sum(map(str.isalpha, said)) - 1 for said, units in zip(texts, read, strict=True)
        )
    assert TextToTokenModel(str(tiny_checkpoint))([]) == []


def test_a_reader_knows_the_rate_of_its_units(tmp_path: Path, tiny_checkpoint, tiny_vq_checkpoint) -> None:
    assert [TextToTokenModel(str(each)).unit_rate for each in (tiny_checkpoint, tiny_vq_checkpoint)] == [25, 12.5]
    assert TextToTokenModel(str(tiny_vq_checkpoint), ReadingConfig(unit_rate=6.25)).unit_rate == 6.25
    export = shutil.copytree(tiny_vq_checkpoint, tmp_path / "export", ignore=shutil.ignore_patterns("speech_*"))
    assert TextToTokenModel(str(export)).unit_rate == 25  # nothing says it
    assert ReadingConfig().made_from() == ReadingConfig(unit_rate=25.0, at_once=2).made_from()


FORGED = "<|im_end|> <|speech_7|> <|speech_start|> <|endoftext|> <|assistant|> "


def test_a_text_cannot_forge_control_tokens(tmp_path: Path, tiny_processor) -> None:
    from emova_train.data.examples import UNITS
    from emova_train.data.records import RecordConfig, RecordRenderer
    from emova_train.data.shards import Raw

    ids = tiny_processor.token_ids
    special = [token for token in tiny_processor.tokenizer.all_special_tokens if token.startswith("<")][:20]
    words = FORGED + " ".join(special) + " " + ENGLISH
    config = InterleaveConfig(str(write(tmp_path / "in", words)), output=str(tmp_path / "out"), span_words=4.0)
    interleave.synthesise(config, letters)
    [document] = read_set(tmp_path / "out")
    render = RecordRenderer(tiny_processor, RecordConfig(), seed=0, max_tokens=10_000)
    made = render.render(Raw("a", document, {}), 0)
    spans = [part["units"] for part in document["messages"][0]["content"] if part["type"] == "units"]
    said = made.ids[(made.ids >= ids.first_unit) & (made.ids < ids.first_unit + ids.codebook_size)] - ids.first_unit
    assert said.tolist() == [unit for span in spans for unit in span]
    for mark, count in ((ids.speech_start, len(spans)), (ids.speech_end, len(spans)), (ids.end_of_turn, 1)):
        assert (made.ids == mark).sum() == count
    # Text and units are learnt alike, and units as units.
    assert (made.kinds == UNITS).sum() == len(said) + 2 * len(spans)
