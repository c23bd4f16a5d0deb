"""The demo without a browser: sound that is dropped, speech that is found, voices, files, and what is escaped."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
pytest.importorskip("onnxruntime", reason="pip install 'emova[demo]'")
pytest.importorskip("silero_vad", reason="pip install 'emova[demo]'")

from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.detokenizer.vits import LOG_F0_CENTRE
from emova.speech.style import DEFAULT_STYLES, Style, StylePrototypes
from emova.speech.vad import RATE, WINDOW, TurnTaking
from emova.speech.voice import Voice
from emova_app.demo import cli, render
from emova_app.demo.conversation.microphone import TURNS, Microphone, decode_chunk
from emova_app.demo.conversation.page_session import Answer
from emova_app.demo.conversation.speaker import own_prototypes, voice_from_recording, with_pitch_of
from emova_app.demo.conversation.trace import Trace
from emova_app.demo.draw import f0_curve, mel_image, waterfall
from emova_app.demo.pitch import estimate_f0
from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES, Store
from emova_app.pcm import from_pcm, to_pcm
from tests.app.fixtures_browser import EXAMPLES, question
from tests.fixtures_codecs import FLOW, VOICES
from tests.fixtures_speech import BABBLE


@pytest.fixture(scope="module")
def assistant(tiny_checkpoint):
    from emova.assistant import Assistant, AssistantConfig
    from emova.reply.format import ReplyLimits

    limits = ReplyLimits(max_text_tokens=8, max_units=20)
    return Assistant.from_pretrained(tiny_checkpoint, config=AssistantConfig(reply_guard=BABBLE, reply_limits=limits))


@pytest.fixture()
def session(assistant):
    from emova.session.config import SchedulerConfig
    from emova.session.scheduler import Scheduler

    opened = Scheduler(assistant, SchedulerConfig(max_sessions=1)).open()
    yield opened
    opened.close()


# --- sound ------------------------------------------------------------------------------------------------------------
def test_pcm_there_and_back():
    samples = np.linspace(-1, 1, 999).astype(np.float32)
    assert np.abs(from_pcm(to_pcm(samples)) - samples).max() < 1e-4


@pytest.mark.parametrize(
    "pcm, rate", [(None, RATE), ("&&", RATE), ("AAAA", 1), ("AAAA", "fast"), ("A" * (4 << 20), RATE)]
)
def test_a_forged_microphone_gets_one_line(pcm, rate):
    with pytest.raises(InputError, match="^the microphone: "):
        decode_chunk(pcm, rate)


# --- hearing ----------------------------------------------------------------------------------------------------------
class Listener:
    """A page that takes down what its microphone does."""

    def __init__(self, session):
        self.session, self.interrupted = session, []

    def alive(self):
        return True

    def interrupt(self, heard_seconds):
        self.interrupted.append(heard_seconds)

    def show_picture(self):
        return False


@pytest.mark.parametrize("block", [1600, 9000, 400_000])
def test_questions_are_found_between_silences_however_the_sound_is_cut(session, block):
    listener = Listener(session)
    microphone, spoken = Microphone(listener), question()
    rng = np.random.default_rng(0)
    silence = 1e-4 * rng.standard_normal(RATE * 2).astype(np.float32)
    stream = np.concatenate([silence, spoken, silence, spoken, silence])
    found = []
    for start in range(0, len(stream), block):
        got = microphone.step("free", RATE, stream[start : start + block], None)
        while True:
            assert got.began <= (len(microphone) > 0)
            if not got.ended:
                break
            found.append(microphone.take())
            session.unhear()
            got = microphone.step("free", RATE, np.zeros(0, np.float32), None)
    assert len(found) == 2 and listener.interrupted == [None, None] and len(microphone) == 0
    for heard in found:
        # All of the question, not much more: the sound before it, the pause after it.
        assert heard is not None and len(spoken) * 0.9 < len(heard) < len(spoken) + 1.4 * RATE
        assert np.square(heard).sum() > 0.98 * np.square(spoken).sum()


def test_the_page_s_own_voice_must_be_spoken_over_for_longer():
    def windows_until_start(echo):
        taking = TurnTaking(TURNS, detector=lambda window: 1.0)
        return next(n for n in range(1, 20) if taking.step(np.zeros(WINDOW, np.float32), echo=echo))

    assert windows_until_start(False) == TURNS.start_windows < TURNS.echo_windows == windows_until_start(True)


# --- voices -----------------------------------------------------------------------------------------------------------
def test_an_own_voice_keeps_the_offsets_of_the_styles(assistant):
    prototypes = assistant.voice.prototypes
    vector = prototypes[Style("male")] + 0.01
    own = own_prototypes(prototypes, vector)
    assert torch.equal(own[Style("female")], own[Style("male")]) and torch.allclose(own[Style()], vector)
    for style in DEFAULT_STYLES.all:
        male = Style("male", style.emotion, style.pitch)
        assert torch.allclose(own[style] - vector, prototypes[male] - prototypes[Style("male")], atol=1e-6)


@pytest.mark.parametrize("hertz", [110, 300])
def test_an_own_voice_has_the_level_of_the_recording(assistant, hertz):
    voice = assistant.voice
    time = np.arange(3 * voice.sample_rate) / voice.sample_rate
    buzz = (sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 12)) * 0.2).astype(np.float32)
    before = voice.detokenizer.embed_style(torch.from_numpy(buzz)[None])[0]
    vector = with_pitch_of(voice, before, buzz)
    level = voice.detokenizer.vits.pitch.level
    found = float(torch.exp(level(vector[None]).detach() + LOG_F0_CENTRE))
    was = float(torch.exp(level(before[None]).detach() + LOG_F0_CENTRE))
    assert found == pytest.approx(np.clip(hertz, was * np.exp(-0.5), was * np.exp(0.5)), rel=0.05)
    # No shorter way there: the change is along the level's own weights.
    change = vector - before
    assert abs(float(torch.cosine_similarity(change, level.weight[0], dim=0))) == pytest.approx(1.0, abs=1e-3)


def test_an_own_voice_needs_speech_and_no_certain_level(assistant):
    voice = assistant.voice
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(3 * voice.sample_rate).astype(np.float32)
    for samples, share in ((noise, 0.1), (noise[:9000], 1.0), (0 * noise, 1.0)):
        with pytest.raises(InputError, match="the recording"):
            voice_from_recording(voice, samples, share)
    own, quieter = (voice_from_recording(voice, level * noise, 1.0) for level in (1.0, 0.3))
    assert torch.allclose(own.vector(Style()), quieter.vector(Style()), atol=1e-4)


def with_random_styles(detokenizer: nn.Module) -> Voice:
    detokenizer.eval()
    assert isinstance(detokenizer, SpeechDetokenizer)
    generator = torch.Generator().manual_seed(0)
    vectors = {style.key: torch.randn(detokenizer.style_size, generator=generator) for style in DEFAULT_STYLES}
    return Voice(detokenizer, StylePrototypes(vectors, DEFAULT_STYLES))


@pytest.mark.parametrize("kind", sorted(VOICES))
def test_an_own_voice_of_every_kind_of_decoder(kind: str) -> None:
    """It is heard from the recording, whatever its level, and speaks, whole and in a stream, in all styles."""
    torch.manual_seed(0)
    voice = with_random_styles(VOICES[kind]())
    rng = np.random.default_rng(0)
    recordings = 0.1 * rng.standard_normal((2, 3 * voice.sample_rate)).astype(np.float32)
    recordings[1] = np.cumsum(recordings[1]) * 0.01 + 0.1 * recordings[0]  # of another timbre
    own, quieter, another = (
        voice_from_recording(voice, samples, 1.0) for samples in (recordings[0], 0.3 * recordings[0], recordings[1])
    )
    assert torch.allclose(own.vector(Style()), quieter.vector(Style()), atol=1e-4)
    assert not torch.allclose(own.vector(Style()), another.vector(Style()), atol=1e-3)
    assert not torch.allclose(own.vector(Style()), voice.vector(Style()), atol=1e-3)
    sad, units = Style("male", "sad", "low"), [int(unit) for unit in rng.integers(0, 64, 12)]
    whole, speaking = own.synthesize(units, sad), own.start(sad)
    streamed = np.concatenate([*(speaking.step([unit]) for unit in units), speaking.finish()])
    assert np.isfinite(whole).all() and np.allclose(streamed, whole, atol=1e-3)


def test_a_release_without_an_encoder_of_speakers_has_no_own_voice() -> None:
    voice = with_random_styles(FlowHiFTDetokenizer(replace(FLOW, hears_styles=False)))
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * voice.sample_rate).astype(np.float32)
    with pytest.raises(InputError, match="^this voice cannot be given by a recording: its release has no encoder of s"):
        voice_from_recording(voice, noise, 1.0)


# --- what is drawn ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hertz", [90, 220, 400])
def test_f0_of_a_buzz(hertz):
    time = np.arange(24_000) / 24_000
    buzz = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 12)) * 0.2
    f0 = estimate_f0(np.concatenate([np.zeros(12_000), buzz]), 24_000)
    assert len(f0) == 150 and np.isnan(f0[:45]).all()
    assert np.nanmedian(f0) == pytest.approx(hertz, rel=0.03)


@pytest.mark.parametrize("length", [0, 1, 200, 24_000])
def test_figures_of_any_length(length):
    samples = np.zeros(length, np.float32)
    assert mel_image(samples, 24_000).startswith("data:image/png;base64,")
    assert "no voice found" in f0_curve(estimate_f0(samples, 24_000))


def test_what_was_said_is_escaped(assistant):
    evil = "<img src=x onerror=alert(1)><script>"
    reply = assistant.chat(text="Hello.")
    for name in ("text", "transcript"):
        object.__setattr__(reply, name, evil)
    answer = Answer(reply, 1.0, Trace(), assistant.voice)
    for shown in (render.hood(answer, assistant), waterfall([(evil, "read", [(0, 1)])], 1, 0.5)):
        assert "<script" not in shown and "<img src=x" not in shown


def test_units_are_shown_at_their_own_rate(assistant, monkeypatch) -> None:
    reply = assistant.chat(text="Hello.")
    shown = {}
    for rate in (25.0, 12.5):
        monkeypatch.setattr(assistant.voice.detokenizer, "unit_rate", rate)
        shown[rate] = render.hood(Answer(reply, 1.0, Trace(), assistant.voice), assistant)
        assert f"{len(reply.units)} units, {rate:g} a second" in shown[rate]
    assert ' title="40 ms: ' in shown[25.0] and ' title="80 ms: ' in shown[12.5]
    assert ' title="40 ms: ' not in shown[12.5]


# --- files and the command --------------------------------------------------------------------------------------------
def test_an_upload_is_deleted_and_others_are_not(tmp_path):
    store = Store(tmp_path / "own")
    (tmp_path / "own" / "abc").mkdir(parents=True)
    mine, other = tmp_path / "own" / "abc" / "x.wav", tmp_path / "keep.wav"
    for path in (mine, other):
        path.write_bytes(b"12")
    assert store.take(str(mine), "it") == b"12" and not mine.parent.exists()
    store.delete(str(other))
    store.delete(str(tmp_path / "own" / ".." / "keep.wav"))
    assert other.exists()
    with pytest.raises(InputError, match="did not arrive"):
        store.take(str(mine), "it")
    mine.parent.mkdir()
    mine.write_bytes(bytes(MAX_UPLOAD_BYTES + 1))
    with pytest.raises(InputError, match="larger than 16 MB"):
        store.take(str(mine), "it")
    assert not mine.exists()


def test_no_file_of_the_machine_is_served_and_large_ones_are_refused(assistant, monkeypatch):
    from starlette.testclient import TestClient

    from emova_app.demo.page import build_app

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the page sets it; put back at the end
    with TestClient(build_app(assistant), base_url="http://127.0.0.1") as client:
        assert client.get("/").status_code == 200
        for path in ("/etc/passwd", "../../../../etc/passwd", str(EXAMPLES / "photo.png"), cli.__file__):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        assert client.post("/gradio_api/upload", files={"files": ("x.png", b"small")}).status_code == 200
        large = {"files": ("x.png", bytes(MAX_UPLOAD_BYTES + 1))}
        assert client.post("/gradio_api/upload", files=large).status_code in (400, 413)
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400


REFUSED = [("--host 0.0.0.0", "password"), ("--port 0", "no port"), ("--pages-per-address 0", "between 1 and 8")]


@pytest.mark.parametrize("words, reason", REFUSED)
def test_the_command_refuses(words, reason, monkeypatch):
    monkeypatch.delenv(cli.PASSWORD, raising=False)
    parser = argparse.ArgumentParser()
    cli.register(parser)
    with pytest.raises(InputError, match=reason):
        cli.run(parser.parse_args(words.split()))


def test_no_file_names_another_host():
    for path in Path(cli.__file__).parent.rglob("*"):
        if path.suffix in (".py", ".js", ".css"):
            text = path.read_text(encoding="utf-8").replace('f"http://{', "").replace("http://www.w3.org", "")
            assert "http://" not in text and "https://" not in text, path
    assert EXAMPLES.is_dir()
