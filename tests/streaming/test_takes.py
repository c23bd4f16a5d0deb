"""Reading aloud with an ear on it: of each piece the clearest take is kept, by the tokenizer's decoder of phones."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.engine.engine import EngineConfig
from emova.reply.format import ReplyLimits
from emova.session.takes import Ear, PhonePrefix, TakesConfig, begins, ends, read_sentence
from emova.speech.spelling import PHONES, sounds
from emova.speech.tokenizer.phones import BLANK
from emova.speech.tokenizer.protocol import HearsPhones

TEXT = "Hello there."
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=60)
SHORT = TakesConfig(most=4, piece=9, kept=5, clear=0.0, temperature=0.6)


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory) -> Path:
    """A checkpoint that reads from phones."""
    made = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("takes") / "phones")
    return edited(made, reading_spelling=PHONES)


def edited(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def load(folder, takes: TakesConfig, **sampling) -> Assistant:
    config = AssistantConfig(
        reply_limits=LIMITS, engine=EngineConfig(half_cache=False), takes=takes, sampling=Sampling(**sampling)
    )
    return Assistant.from_pretrained(folder, config=config)


def ears(reader: Assistant) -> HearsPhones:
    assert reader.phone_reader is not None
    return reader.phone_reader


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


@pytest.mark.parametrize("text", [(), (1,), (2, 1), (1, 1), (2, 2, 1)])
def test_a_spelling_is_the_sum_over_alignments(text: tuple[int, ...]) -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], 5))
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        read = tuple(token for token, _ in itertools.groupby(path) if token != BLANK)
        found[read] = found.get(read, 0.0) + float(np.exp(sum(log_probs[t, token] for t, token in enumerate(path))))
    spelling = PhonePrefix(text)
    places = spelling.begin()
    for piece in (log_probs[:2], log_probs[2:2], log_probs[2:]):  # whatever the pieces
        places = spelling.go_on(places, piece)
    assert np.isclose(np.exp(ends(places)), found.get(text, 0.0))
    assert np.isclose(np.exp(begins(places)), sum(found.get(text[:stop], 0.0) for stop in range(len(text) + 1)))


def test_both_codecs_can_be_heard(tiny_vq_checkpoint, tmp_path) -> None:
    reader = load(edited(shutil.copytree(tiny_vq_checkpoint, tmp_path / "vq"), reading_spelling=PHONES), SHORT)
    written, units = counted(reader)
    assert list(units) and len(written) % SHORT.most == 0


def test_an_ear_hears_what_the_tokenizer_reads(folder) -> None:
    """The likeliest sounds, by the decoder's own reading, are likelier than any others."""
    tokenizer = ears(load(folder, SHORT))
    units = [5, 900, 77, 77, 3, 2048, 1]
    assert np.allclose(np.exp(tokenizer.phone_log_probs(units)).sum(-1), 1.0, atol=1e-5)
    assert tokenizer.phone_log_probs(units).argmax(-1).max() <= len(tokenizer.inventory.phones)
    (read,) = tokenizer.phones([torch.tensor(units)])
    for other in (list("hɛlO"), [], read[:1]):
        if other != read:
            assert ends(Ear(tokenizer, read).hear(units)) > ends(Ear(tokenizer, other).hear(units))


def test_one_take_that_is_never_heard_again_equals_the_plain_way(folder) -> None:
    """Without chance, the pieces of a sentence are the sentence as it is written in one go."""
    plain = load(folder, TakesConfig(most=1, temperature=0.0))
    for piece, kept in ((9, 5), (1, 1), (60, 60)):
        pieces = load(folder, TakesConfig(most=2, piece=piece, kept=kept, clear=1e9, temperature=0.0))
        assert pieces.pronounce(TEXT) == plain.pronounce(TEXT)


def test_the_clearest_take_of_the_whole_sentence_is_kept(folder) -> None:
    reader = load(folder, TakesConfig(most=5, piece=60, kept=60, clear=-1.0, temperature=0.6))
    clear: dict[tuple[int, ...], float] = {}
    for seed in range(5):
        units = load(folder, TakesConfig(most=1, temperature=0.6), seed=seed).pronounce(TEXT)
        clear[units] = ends(Ear(ears(reader), sounds(TEXT)).hear(units))
    assert len(clear) == 5
    assert reader.pronounce(TEXT) == max(clear, key=clear.__getitem__)


def test_a_clear_take_is_the_only_one(folder) -> None:
    written, units = counted(load(folder, replace(SHORT, clear=1e9)))
    heard = list(units)
    assert len(written) == -(-len(heard) // SHORT.kept) or len(written) == -(-len(heard) // SHORT.kept) - 1
    written, units = counted(load(folder, replace(SHORT, clear=-1e9)))
    assert len(written) % SHORT.most == 0 and list(units) and len(written) % SHORT.most == 0


def test_a_piece_is_heard_before_the_next_is_written(folder) -> None:
    written, units = counted(load(folder, replace(SHORT, clear=1e9)))
    next(units)
    assert len(written) == 1


def test_what_nothing_can_judge_comes_as_it_is_written(folder, tiny_checkpoint, tmp_path) -> None:
    """Letters, whose sounds nobody tells, and a tokenizer that lacks its decoder of phones."""
    deaf = shutil.copytree(folder, tmp_path / "deaf")
    weights = deaf / "speech_tokenizer" / "model.safetensors"
    state = {name: each for name, each in load_file(weights).items() if not name.startswith("phone_decoder.")}
    save_file(state, weights)
    for each in (tiny_checkpoint, deaf):
        written, units = counted(load(each, SHORT))
        next(units)
        assert len(written) == 1 and written[0] <= 2  # what opens the speech, and the first unit
        assert len(list(units)) + 1 == len(load(each, TakesConfig(most=1, temperature=0.6)).pronounce(TEXT))
    tokenizer = load(deaf, SHORT).speech_tokenizer
    assert isinstance(tokenizer, HearsPhones) and not tokenizer.reads_phones
    with pytest.raises(InputError, match="no phone decoder"):
        tokenizer.phone_log_probs([1, 2])


@pytest.mark.parametrize(("wrong", "told"), [({"most": 0}, "takes.most=0"), ({"kept": 40}, "takes.kept=40")])
def test_what_cannot_be_is_refused(wrong, told) -> None:
    with pytest.raises(InputError, match=told):
        TakesConfig(**wrong)
