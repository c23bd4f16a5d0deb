"""A second language model that reads aloud, while the first does all else, as if each were alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.files import READING_ALOUD, SPELLING
from emova.checkpoint.loading import load_parts
from emova.checkpoint.reading_aloud import save_reading_model
from emova.core.errors import InputError
from emova.engine.engine import EngineConfig
from emova.model.storage import save_int8
from emova.reply.format import ReplyLimits
from emova.session.scheduler import Scheduler
from emova.session.takes import read_sentence
from emova.speech.spelling import PHONES, phone_letters, sounds
from emova_app.transcribing import write_units_down
from tests.fixtures_speech import BABBLE
from tests.replies import last_reply

LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=40)
CONFIG = AssistantConfig(reply_guard=BABBLE, reply_limits=LIMITS, engine=EngineConfig(half_cache=False))
TEXT = "Hello there. How are you?"
HEARD = [5, 900, 77, 77, 3, 2048, 1] * 4


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint that talks, one whose language model is another, and one that has both; the latter two also with
    phones for letters."""
    place = tmp_path_factory.mktemp("reading")
    made = {name: shutil.copytree(tiny_checkpoint, place / name) for name in ("talks", "reads", "both")}
    model = load_parts(tiny_checkpoint).model
    with torch.no_grad():
        torch.manual_seed(7)
        for parameter in model.model.language_model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_int8(model, made["reads"])
    save_reading_model(model, made["both"])
    model.config.reading_spelling = PHONES
    for name in ("reads", "both"):
        made[f"{name} phones"] = shutil.copytree(tiny_checkpoint, place / f"{name} phones")
    save_int8(model, made["reads phones"])
    save_reading_model(model, made["both phones"])
    return made


@pytest.fixture(scope="module")
def assistants(folders) -> dict[str, Assistant]:
    return {name: Assistant.from_pretrained(folder, config=CONFIG) for name, folder in folders.items()}


def test_each_does_its_own(assistants) -> None:
    talks, reads, both = (assistants[name] for name in ("talks", "reads", "both"))
    assert both.pronounce(TEXT) == reads.pronounce(TEXT) != talks.pronounce(TEXT)
    assert both.transcribe_units(HEARD) == talks.transcribe_units(HEARD) != reads.transcribe_units(HEARD)
    for text in ("Hello.", "Who is it?"):
        found, wanted = both.chat(text=text), talks.chat(text=text)
        assert (found.text, found.units) == (wanted.text, wanted.units) and np.array_equal(found.audio, wanted.audio)


def test_texts_are_spelled_as_the_one_that_reads_wants_them(assistants) -> None:
    reads, both = assistants["reads phones"], assistants["both phones"]
    assert both.pronounce(TEXT) == reads.pronounce(TEXT) != assistants["reads"].pronounce(TEXT)
    assert both.chat(text="Hello.").units == assistants["talks"].chat(text="Hello.").units
    (sentence,) = both.reading("Hello there.")
    assert sentence.sounds == sounds("Hello there.")
    assert list(sentence.prompt.ids) == list(both.prompt([asked("Say this: " + phone_letters("Hello there."))]).ids)
    (sentence,) = assistants["both"].reading("Hello there.")
    assert not sentence.sounds
    assert list(sentence.prompt.ids) == list(both.prompt([asked("Say this: Hello there.")]).ids)


def asked(text: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def test_beside_sessions_too(assistants) -> None:
    """In the same rounds, each on its own layers."""
    both = assistants["both"]
    scheduler = Scheduler(both)
    events = scheduler.open().ask("Hello.")
    next(events)
    units = [u for each in both.reading(TEXT) for u in read_sentence(both, each, scheduler.write_aloud, scheduler.lock)]
    assert tuple(units) == both.pronounce(TEXT)
    assert "".join(write_units_down(scheduler, HEARD)).strip() == both.transcribe_units(HEARD)
    assert last_reply(events).units == assistants["talks"].chat(text="Hello.").units


def test_what_they_share_is_there_once(folders) -> None:
    parts = load_parts(folders["both"])
    assert parts.reading_model is not None
    assert parts.reading_model.model.vision_tower is parts.model.model.vision_tower
    assert parts.reading_model.model.language_model is not parts.model.model.language_model
    assert load_parts(folders["talks"]).reading_model is None


def test_saved_again_it_is_the_same(folders, tmp_path) -> None:
    reads = load_parts(folders["both"]).reading_model
    assert reads is not None
    save_reading_model(reads, tmp_path)
    assert (tmp_path / READING_ALOUD).read_bytes() == (folders["both"] / READING_ALOUD).read_bytes()


def test_a_damaged_or_foreign_file_is_told(folders, tmp_path) -> None:
    broken = shutil.copytree(folders["both"], tmp_path / "broken")
    whole = (broken / READING_ALOUD).read_bytes()
    (broken / READING_ALOUD).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the file is damaged"):
        load_parts(broken)
    (broken / READING_ALOUD).write_bytes(whole)
    state = load_file(broken / READING_ALOUD)
    del state["model.language_model.norm.weight"]
    save_file(state, broken / READING_ALOUD)
    with pytest.raises(InputError, match="of another shape"):
        load_parts(broken)
    save_file(load_file(folders["both"] / READING_ALOUD), broken / READING_ALOUD, {SPELLING: "runes"})
    with pytest.raises(InputError, match="spelling 'runes': unknown; give one of letters, phones"):
        load_parts(broken)
