"""The shipped checkpoint sees, hears and speaks; its answers follow the picture; its units are semantic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from PIL import Image

from emova.assistant import Assistant
from emova.events import Done, Failed
from emova.session.scheduler import Scheduler
from emova.speech.audio import load_audio
from emova.speech.style import DEFAULT_STYLES, Style
from emova_eval.suite.codec import unit_distances
from tests.replies import last_reply

EXAMPLES = Path(__file__).parents[1] / "emova" / "checkpoints" / "examples"
CHECKPOINT = EXAMPLES.parent / "emova-nano"


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_pretrained("emova-nano")


def test_it_stays_within_its_size() -> None:
    total = sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file())
    assert total <= 64 * 2**20


def test_the_example_is_answered_in_words_and_sound(assistant: Assistant, tmp_path: Path) -> None:
    reply = assistant.chat(audio=EXAMPLES / "question.wav", image=EXAMPLES / "photo.png")
    assert reply.transcript and reply.text
    assert reply.emotion in DEFAULT_STYLES.emotions and reply.pitch in DEFAULT_STYLES.pitches
    assert len(reply.audio) == 960 * len(reply.units) > 0
    assert np.abs(reply.audio).max() > 0.01
    reply.save(tmp_path / "answer.wav")
    assert (tmp_path / "answer.wav").stat().st_size > len(reply.audio)


def test_the_same_question_gets_the_same_answer(assistant: Assistant) -> None:
    first, second = (assistant.chat(text="How are you?") for _ in range(2))
    assert (first.text, first.units) == (second.text, second.units)


def test_it_answers_in_streaming_thoughts_too(assistant: Assistant) -> None:
    thoughts = Assistant(assistant.parts, assistant.config, assistant.parts.model.config.reply_format("interleaved"))
    session = Scheduler(thoughts).open()
    session.show(EXAMPLES / "photo.png")
    session.hear(load_audio(EXAMPLES / "question.wav", 16_000))
    events = list(session.ask())
    reply = last_reply(events)
    assert (
        len(reply.text.split()) > 1
        and reply.emotion in DEFAULT_STYLES.emotions
        and reply.pitch in DEFAULT_STYLES.pitches
    )
    assert len(reply.audio) == 960 * len(reply.units) > 24_000 // 2 and np.abs(reply.audio).max() > 0.01


def test_a_minute_of_noise_is_answered_or_refused_and_forgotten(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant)
    session, other = scheduler.open(), scheduler.open()
    undisturbed = Scheduler(assistant).open()
    wanted = [last_reply(undisturbed.ask("How are you?")) for _ in range(2)]
    first = last_reply(other.ask("How are you?"))
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000).astype(np.float32)
    for piece in np.split(noise, 60):
        session.hear(piece)
    last = list(session.ask())[-1]
    assert isinstance(last, Done | Failed) and (not isinstance(last, Failed) or ";" in last.message)
    again = last_reply(other.ask("How are you?"))
    assert [(reply.text, reply.units) for reply in (first, again)] == [(reply.text, reply.units) for reply in wanted]
    assert isinstance(list(session.ask("How are you?"))[-1], Done)


def test_the_answer_follows_the_picture(assistant: Assistant) -> None:
    from emova_data.nano.pictures import make_picture  # drawn anew: none of them was trained on

    numbers, right = ("no", "one", "two", "three", "four", "five", "six"), []
    for index in range(8):
        picture = make_picture("scenes", seed=987, index=index, split="test")
        answer = assistant.chat(text="How many shapes are there?", image=picture.drawn.image).text
        shapes = picture.record["facts"]["shapes"]
        assert isinstance(shapes, list)
        right.append(numbers[len(shapes)] in answer.split())
    assert sum(right) >= 7
    blank = assistant.chat(text="How many shapes are there?", image=Image.new("RGB", (224, 224), "white")).text
    assert "three" not in blank and "five" not in blank


def test_units_tell_sentences_apart_and_voices_and_emotions_less(assistant: Assistant) -> None:
    from emova_data.nano.voices.voices import Voices

    voices = Voices(Path())
    renderings = [
        ("hibari/p940", "neutral"),
        ("hibari/p941", "neutral"),
        ("hibari/p940", "sad"),
        ("hibari/p941", "happy"),
    ]
    sentences = ["The train to the coast leaves at nine.", "She put the yellow bowl on the table."]

    def units(sentence: str, voice: str, emotion: str) -> np.ndarray:
        spoken = voices.speak(voice, sentence, emotion)
        samples = soxr.resample(spoken.samples, spoken.sample_rate, 16000).astype(np.float32)
        return np.array(assistant.tokenize(samples))

    found = unit_distances({text: [units(text, *rendering) for rendering in renderings] for text in sentences})
    assert found.same_sentence < found.same_voice


def test_one_row_of_units_in_every_style_has_the_same_length_and_another_sound(assistant: Assistant) -> None:
    units = assistant.tokenize(EXAMPLES / "question.wav")
    spoken = [assistant.render(units, Style("female", emotion, "normal")) for emotion in DEFAULT_STYLES.emotions]
    assert {speech.units for speech in spoken} == {units}
    assert len({len(speech.audio) for speech in spoken}) == 1
    assert all(np.abs(a.audio - b.audio).max() > 0.01 for a, b in zip(spoken, spoken[1:], strict=False))
