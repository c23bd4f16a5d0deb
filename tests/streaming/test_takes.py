"""Reading aloud in several takes: the clearest one is heard, by the model's own ears."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError
from emova.engine.engine import EngineConfig
from emova.reply.format import ReplyLimits
from emova.session.takes import TakesConfig, clearness, read_sentence

TEXT = "Hello there."
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=40)


@pytest.fixture(scope="module")
def hearing(tiny_checkpoint) -> Assistant:
    config = AssistantConfig(reply_limits=LIMITS, engine=EngineConfig(half_cache=False))
    return Assistant.from_pretrained(tiny_checkpoint, config=config)


def with_takes(assistant: Assistant, **takes) -> Assistant:
    return Assistant(assistant.parts, replace(assistant.config, takes=TakesConfig(**takes)))


def take(assistant: Assistant, number: int) -> tuple[int, ...]:
    """The sentence as it is read with the random numbers of one take."""
    sampling = replace(assistant.config.sampling, seed=assistant.config.sampling.seed + number)
    config = replace(assistant.config, sampling=sampling, takes=TakesConfig(most=1))
    return Assistant(assistant.parts, config).pronounce(TEXT)


def test_the_clearest_take_is_heard(hearing) -> None:
    text = hearing.table.encode(TEXT)
    takes = [take(hearing, number) for number in range(5)]
    clear = [clearness(hearing, units, text) for units in takes]
    assert len(set(clear)) > 1
    assert with_takes(hearing, most=5, clear=0.0).pronounce(TEXT) == takes[max(range(5), key=clear.__getitem__)]


def test_a_clear_take_is_the_last(hearing) -> None:
    text = hearing.table.encode(TEXT)
    clear = [clearness(hearing, take(hearing, number), text) for number in range(8)]
    enough = sorted(clear)[4]  # half of the takes are
    reader = with_takes(hearing, most=8, clear=enough)
    written = 0

    def write(prompt, grammar, sampling):
        nonlocal written
        written += 1
        yield from reader._write(prompt, grammar, sampling)

    (sentence,) = reader.reading(TEXT)
    units = tuple(read_sentence(reader, sentence, write))
    first = next(number for number, each in enumerate(clear) if each >= enough)
    assert (written, units) == (first + 1, take(hearing, first))


def test_without_ctc_units_come_as_they_are_written(tiny_checkpoint, tmp_path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "ctc_layer": 0}))
    reader = Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))
    (sentence,) = reader.reading(TEXT)
    written: list[int] = []

    def write(prompt, grammar, sampling):
        for token in reader._write(prompt, grammar, sampling):
            written.append(token)
            yield token

    units = read_sentence(reader, sentence, write)
    next(units)
    assert len(written) <= 2  # what opens the speech, and the first unit
    assert len(list(units)) + 1 == len(take(reader, 0))


def test_no_take_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="takes.most=0"):
        TakesConfig(most=0)
