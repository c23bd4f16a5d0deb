"""Reading aloud with an ear on it: of each piece the clearest take is kept, by the model's own ears."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError
from emova.decoding.ctc import CtcPrefix
from emova.decoding.sampling import Sampling
from emova.engine.engine import EngineConfig
from emova.reply.format import ReplyLimits
from emova.session.takes import Ear, Spelling, TakesConfig, begins, ends, read_sentence

TEXT = "Hello there."
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=60)
SHORT = TakesConfig(most=4, piece=9, kept=5, clear=0.0, temperature=0.6)


def load(folder, takes: TakesConfig, **sampling) -> Assistant:
    config = AssistantConfig(
        reply_limits=LIMITS, engine=EngineConfig(half_cache=False), takes=takes, sampling=Sampling(**sampling)
    )
    return Assistant.from_pretrained(folder, config=config)


def counted(reader: Assistant) -> tuple[list[int], Iterator[int]]:
    """How many tokens each take wrote, and the units of the sentence."""
    (sentence,) = reader.reading(TEXT)
    written: list[int] = []

    def write(*task) -> Iterator[int]:
        written.append(0)
        for token in reader._write_aloud(*task):
            written[-1] += 1
            yield token

    return written, read_sentence(reader, sentence, write)


@pytest.mark.parametrize("text", [(), (0,), (1, 0), (0, 0), (1, 1, 0)])
def test_a_spelling_is_the_sum_over_alignments(text: tuple[int, ...]) -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], 5))
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        read = tuple(token for token, _ in itertools.groupby(path) if token != 2)
        found[read] = found.get(read, 0.0) + float(np.exp(sum(log_probs[t, token] for t, token in enumerate(path))))
    spelling = Spelling(text)
    places = spelling.begin()
    for piece in (log_probs[:2], log_probs[2:2], log_probs[2:]):  # whatever the pieces
        places = spelling.go_on(places, piece)
    assert np.isclose(np.exp(ends(places)), found.get(text, 0.0))
    assert np.isclose(np.exp(begins(places)), sum(found.get(text[:stop], 0.0) for stop in range(len(text) + 1)))


def test_an_ear_hears_the_same_in_any_pieces(tiny_checkpoint) -> None:
    """As a transcription reads the units in one go, with what was rewound in between forgotten."""
    reader = load(tiny_checkpoint, SHORT)
    tokens = [reader.token_ids.first_unit + unit for unit in (5, 900, 77, 77, 3, 2048, 1)]
    whole = reader.reading_decoder.new_context()
    reader.reading_decoder.read(whole, reader.transcribing([5, 900, 77, 77, 3, 2048, 1])[0])
    assert whole.ctc is not None
    prefix = CtcPrefix(whole.ctc.log_probs)
    for token in reader.table.encode(TEXT):
        prefix.advance(token)
    for cuts in ((0, 3), (2, 4), (6, 7)):
        ear = Ear(reader, TEXT)
        ear.hear(tokens[: cuts[0]] or tokens[:1], ended=False)
        if not cuts[0]:
            ear = Ear(reader, TEXT)
        mark = ear.mark()
        ear.hear(tokens[3:], ended=True)
        ear.rewind(mark)
        ear.hear(tokens[cuts[0] : cuts[1]], ended=False)
        ear.hear(tokens[cuts[1] :], ended=True)
        assert np.isclose(ends(ear.places), prefix.whole(), atol=1e-3)


def test_one_take_that_is_never_heard_again_equals_the_plain_way(tiny_checkpoint) -> None:
    """Without chance, the pieces of a sentence are the sentence as it is written in one go."""
    plain = load(tiny_checkpoint, TakesConfig(most=1, temperature=0.0))
    for piece, kept in ((9, 5), (1, 1), (60, 60)):
        pieces = load(tiny_checkpoint, TakesConfig(most=2, piece=piece, kept=kept, clear=1e9, temperature=0.0))
        assert pieces.pronounce(TEXT) == plain.pronounce(TEXT)


def test_the_clearest_take_of_the_whole_sentence_is_kept(tiny_checkpoint) -> None:
    reader = load(tiny_checkpoint, TakesConfig(most=5, piece=60, kept=60, clear=-1.0, temperature=0.6))
    clear: dict[tuple[int, ...], float] = {}
    for seed in range(5):
        units = load(tiny_checkpoint, TakesConfig(most=1, temperature=0.6), seed=seed).pronounce(TEXT)
        ear = Ear(reader, TEXT)
        ear.hear([reader.token_ids.first_unit + unit for unit in units], ended=True)
        clear[units] = ends(ear.places)
    assert len(clear) == 5
    assert reader.pronounce(TEXT) == max(clear, key=clear.__getitem__)


def test_a_clear_take_is_the_only_one(tiny_checkpoint) -> None:
    written, units = counted(load(tiny_checkpoint, replace(SHORT, clear=1e9)))
    heard = list(units)
    assert len(written) == -(-len(heard) // SHORT.kept) or len(written) == -(-len(heard) // SHORT.kept) - 1
    written, units = counted(load(tiny_checkpoint, replace(SHORT, clear=-1e9)))
    assert len(written) % SHORT.most == 0 and list(units) and len(written) % SHORT.most == 0


def test_a_piece_is_heard_before_the_next_is_written(tiny_checkpoint) -> None:
    written, units = counted(load(tiny_checkpoint, replace(SHORT, clear=1e9)))
    next(units)
    assert len(written) == 1


def test_without_ctc_units_come_as_they_are_written(tiny_checkpoint, tmp_path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "ctc_layer": 0}))
    written, units = counted(load(folder, SHORT))
    next(units)
    assert len(written) == 1 and written[0] <= 2  # what opens the speech, and the first unit
    assert len(list(units)) + 1 == len(load(folder, TakesConfig(most=1)).pronounce(TEXT))


@pytest.mark.parametrize(("wrong", "told"), [({"most": 0}, "takes.most=0"), ({"kept": 40}, "takes.kept=40")])
def test_what_cannot_be_is_refused(wrong, told) -> None:
    with pytest.raises(InputError, match=told):
        TakesConfig(**wrong)
