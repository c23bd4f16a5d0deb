"""Synthesis: spoken dialogues with emotion, styles, pages of text. No network but 127.0.0.1."""

from __future__ import annotations

import http.server
import io
import json
import pickle
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageFont

from emova.core.config import load_config
from emova.core.errors import InputError
from emova_data.records.records import BadRecord, plain_text
from emova_data.records.shard_writer import read_set
from emova_data.synthesis import dialogues, interleave, pipeline, styles, synthdog
from emova_data.synthesis.pipeline import OmniConfig, Parts, SpeechConfig, statistics
from emova_data.synthesis.speech_text import language_of, spoken
from emova_data.synthesis.style_labels import EndpointLabeller, Labels, RuleLabeller, parse_labels
from emova_data.synthesis.tts import AzureSpeech, CosyVoiceSpeech, Speaker, backend, speakers
from emova_train.u2s.cache import measure_f0

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"
DIALOGUES = [
    ("What is the **capital** of France?", "The capital is Paris."),
    ("Write code", "```python\nprint(1)\n```"),
    ("My dog passed away yesterday.", "I am so sorry, that is very sad."),
    ("I passed the exam, thank you!", "Congratulations, that is wonderful!"),
    ("What is the **capital** of France?", "The capital is Paris."),
    ("What is x?", "$$x = 2$$"),
    ("今天天气怎么样？", "今天天气很好，适合出门。"),
]


class Tone:
    """A back end that hums: as long as the text, as high as the emotion's name is long."""

    def __init__(self, languages: tuple[str, ...] = ("en", "zh")) -> None:
        self.languages = languages
        self.said: list[tuple[str, ...]] = []

    def speak(self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int) -> Any:
        self.said.append((words, speaker.name, emotion, pitch))
        times = np.arange(160 * len(words)) / 16000
        return (0.1 * np.sin(2 * np.pi * 50 * len(emotion) * times)).astype(np.float32), 16000


def write_dialogues(path: Path) -> Path:
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for i, (q, a) in enumerate(DIALOGUES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parts(**replaced: Any) -> Parts:
    return Parts(**{"labeller": RuleLabeller(), "speech": Tone(), "tokenise": lambda s: [len(s) % 4096], **replaced})


def test_spoken_dialogues_are_filtered_cleaned_labelled_and_spoken(tmp_path: Path) -> None:
    config = OmniConfig(str(write_dialogues(tmp_path / "in.jsonl")), str(tmp_path / "out"), per_shard=2)
    result = pipeline.synthesise(config, parts())
    assert result.skipped == {"not fit to be spoken": 2, "a copy of another record": 1}
    first, sad, happy, chinese = read_set(tmp_path / "out")
    question, reply = first["messages"][0]["content"][0], first["messages"][1]["content"][0]
    assert question["text"] == reply["transcript"] == "What is the capital of France?"
    assert reply["units"] == [160 * len("The capital is Paris.") % 4096] and reply["emotion"] == "neutral"
    samples, rate = soundfile.read(io.BytesIO(first["media"]["question.flac"]))
    assert rate == 16000 and len(samples) == 160 * len(question["text"])
    assert (sad["user_emotion"], sad["emotion"]) == ("sad", "sad") and sad["user_pitch"] == "low"
    assert (happy["emotion"], happy["pitch"]) == ("happy", "high")
    assert chinese["language"] == "zh" and chinese["set"] == "speech-text-zh"
    table = statistics(tmp_path / "out")
    assert table["speech-text-en (train)"]["examples"] == 3 and table["speech-text-en (train)"]["emotion happy"] == 1
    assert sum(v for k, v in table["speech-text-en (train)"].items() if k.startswith("pitch")) == 3


def test_an_interrupted_synthesis_goes_on(tmp_path: Path) -> None:
    source = str(write_dialogues(tmp_path / "in.jsonl"))
    pipeline.synthesise(OmniConfig(source, str(tmp_path / "whole"), per_shard=1), parts())

    class Dying(Tone):
        def speak(self, *args: Any) -> Any:
            if len(self.said) == 5:
                raise KeyboardInterrupt
            return super().speak(*args)

    config = OmniConfig(source, str(tmp_path / "broken"), per_shard=1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.synthesise(config, parts(speech=Dying()))
    late = Tone()
    pipeline.synthesise(config, parts(speech=late))
    assert len(late.said) == 4  # two exchanges were left; the two finished ones are not spoken again
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "broken" / path.name).read_bytes() == path.read_bytes()


def test_drafts_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    source = write_dialogues(tmp_path / "in.jsonl")
    source.write_text(source.read_text() + "{\n")
    made = list(pipeline.drafts(str(source)))
    assert len(pickle.dumps(made)) > 0 and len(made) == len(DIALOGUES) + 1


def test_visual_instructions_keep_their_picture(tmp_path: Path) -> None:
    config = OmniConfig(str(FIXTURES / "sharegpt4v/captions.json"), str(tmp_path / "out"))
    pipeline.synthesise(config, parts(tokenise=None))
    sample = next(read_set(tmp_path / "out"))
    assert [part["type"] for part in sample["messages"][0]["content"]] == ["image", "audio"]
    assert sample["media"]["0.png"] and sample["set"] == "speech-image-en"


def test_voices_are_not_asked_for_languages_they_lack(tmp_path: Path) -> None:
    config = OmniConfig(str(write_dialogues(tmp_path / "in.jsonl")), str(tmp_path / "out"))
    result = pipeline.synthesise(config, parts(speech=Tone(("en",))))
    assert result.skipped["a language that the voices do not speak"] == 1


def test_every_sentence_is_spoken_in_every_style(tmp_path: Path) -> None:
    """2 genders x 4 emotions x 3 pitches x K candidates; a candidate has one speaker in all of its gender's styles."""
    lines = tmp_path / "lines.txt"
    lines.write_text("It is late.\n\nThe door is open.\nIt is late.\n今天很晚了。\n", encoding="utf-8")

    def config(out: str, **changes: Any) -> styles.StylesConfig:
        values = {"input": str(lines), "candidates": 3, "per_shard": 10, "speakers": "all", **changes}
        return styles.StylesConfig(output=str(tmp_path / out), **values)

    tone = Tone()
    result = styles.synthesise(config("whole"), tone)
    assert result.records == 72 == len(tone.said) and set(styles.statistics(tmp_path / "whole").values()) == {3}
    samples = list(read_set(tmp_path / "whole"))
    assert {sample["language"] for sample in samples} == {"en", "zh"} and samples[0]["sample_rate"] == 24000
    sound, rate = soundfile.read(io.BytesIO(samples[0]["media"]["flac"]))
    seconds = samples[0]["seconds"]
    assert isinstance(seconds, float) and rate == 24000 and len(sound) == pytest.approx(24000 * seconds, abs=2)
    assert samples[0]["phones"] and samples[-1]["phones"][0].startswith("zh:")
    voices = {(sample["text"], sample["gender"]): sample["voice"] for sample in samples}
    assert all(voices[sample["text"], sample["gender"]] == sample["voice"] for sample in samples)
    known = {f"hibari/{speaker.name}": speaker.gender for speaker in speakers()}
    assert all(known[voice] == gender for (_, gender), voice in voices.items())
    one = styles.synthesise(config("one", speakers="one", candidates=2), Tone())
    assert one.records == 48 and len({sample["voice"] for sample in read_set(tmp_path / "one")}) == 2

    class Stops(Tone):
        def speak(self, *said: Any) -> Any:
            if len(self.said) == 33:
                raise KeyboardInterrupt
            return super().speak(*said)

    with pytest.raises(KeyboardInterrupt):
        styles.synthesise(config("cut"), Stops())
    rest = Tone()
    styles.synthesise(config("cut"), rest)
    assert len(rest.said) == 72 - 30  # three shards of ten were whole
    whole, cut = (sorted((tmp_path / name).glob("*.tar")) for name in ("whole", "cut"))
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in cut]
    for changes, why in (
        ({"candidates": 4}, "3 sentences for candidates=4"), ({"input": str(tmp_path / "no")}, "cannot be read"),
        ({"speakers": "two"}, "give one or all"), ({"language": "de"}, "give auto, en or zh"),
        ({"speech": styles.StyledSpeechConfig("flite")}, "its voices have no styles; choose hibari, "),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            styles.synthesise(config("bad", **changes), Tone())


def test_hibari_speaks_in_all_styles(tmp_path: Path) -> None:
    pytest.importorskip("hibari")
    config = load_config(styles.StylesConfig, CONFIGS / "styles.yaml", ["candidates=1", f"output={tmp_path}"])
    assert styles.synthesise(config).records == 24
    heights = {sample["pitch"]: 0.0 for sample in read_set(tmp_path)}
    for sample in read_set(tmp_path):
        sound, rate = soundfile.read(io.BytesIO(sample["media"]["flac"]), dtype="float32")
        f0 = measure_f0((sound * 32767).astype(np.int16))
        heights[sample["pitch"]] += float(np.log(f0[f0 > 0]).mean()) / 8
    assert heights["low"] < heights["normal"] < heights["high"]


def test_there_are_39_speakers_of_both_genders() -> None:
    pytest.importorskip("hibari")
    from emova_data.nano.voices.voices import gender_of

    assert len({speaker.name for speaker in speakers()}) == 39
    for speaker in speakers():
        assert gender_of(f"hibari/{speaker.hibari}") == gender_of(f"kokoro/{speaker.kokoro}") == speaker.gender


def test_hibari_speaks_a_dialogue(tmp_path: Path) -> None:
    pytest.importorskip("hibari")
    path = tmp_path / "in.jsonl"
    path.write_text(
        json.dumps({"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]})
    )
    config = OmniConfig(str(path), str(tmp_path / "out"), speech=SpeechConfig(sources=str(tmp_path)))
    assert pipeline.synthesise(config).records == 1
    sample = next(read_set(tmp_path / "out"))
    seconds = sample["seconds"]
    assert isinstance(seconds, dict) and 0.2 < seconds["answer"] < 3.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("**你好**，世界！", "你好，世界！"),
        ("- 第一点\n- 第二点（很重要）。", "第一点，第二点，很重要。"),
        ("代码 `x = 1`", None),
        ("| 表 | 格 |", None),
        ("见 https://example.org", None),
        ("The price is $5.", "The price is five dollars."),
    ],
)
def test_what_is_spoken(words: str, said: str | None) -> None:
    assert spoken(words, 60) == said


def test_languages() -> None:
    assert language_of("你好 OK") == "zh" and language_of("Hello 你") == "en" and language_of("123") == "en"


# --- endpoints --------------------------------------------------------------------------------------------------------
GOOD = {"user gender": "male", "user emotion": "Angry", "user pitch": "high", "assistant emotion": "neutral",
        "assistant pitch": "normal"}  # fmt: skip


@pytest.fixture()
def endpoint() -> Iterator[tuple[str, list[Any], list[Any]]]:
    """An address, the (status, body) answers to give in turn, and the (path, headers, body) requests got."""
    answers: list[Any] = []
    requests: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, content = answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            return

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", answers, requests
    running.shutdown()
    running.server_close()


def chat(content: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def test_labels_from_an_endpoint(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, answers, requests = endpoint
    monkeypatch.setenv("EMOVA_TEST_KEY", "secret")
    labeller = EndpointLabeller(address + "/v1", "m", "EMOVA_TEST_KEY", attempts=3, wait=0.01)
    answers += [(500, b""), chat("I think neutral"), chat(f"```json\n{json.dumps(GOOD)}\n```")]
    assert labeller.label("Why?", "Because.") == Labels("male", "angry", "high", "neutral", "normal")
    path, headers, body = requests[-1]
    assert path == "/v1/chat/completions" and headers["authorization"] == "Bearer secret"
    assert "Because." in json.loads(body)["messages"][0]["content"]
    answers += [chat("no")] * 3
    with pytest.raises(BadRecord, match="no labels"):
        labeller.label("Why?", "Because.")
    answers += [(401, b"")]
    with pytest.raises(InputError, match="401"):
        labeller.label("Why?", "Because.")


def test_labels_outside_the_enumeration_are_refused() -> None:
    assert parse_labels(json.dumps(GOOD)) is not None
    assert parse_labels(json.dumps({**GOOD, "user emotion": "bored"})) is None
    assert parse_labels("{") is parse_labels("[]") is parse_labels("{}") is None


def test_cosyvoice_and_azure_are_asked_in_their_own_way(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, answers, requests = endpoint
    samples = (np.sin(np.arange(2400) / 5) * 8000).astype("<i2")
    answers += [(200, samples.tobytes()), (200, b"x"), (503, b"")]
    cosy = CosyVoiceSpeech(address)
    got, rate = cosy.speak("你好", speakers()[0], "happy", "high", "zh", 0)
    form = urllib.parse.parse_qs(requests[0][2].decode())
    assert rate == 22050 and np.array_equal(got * 32768, samples)
    assert form["tts_text"] == ["你好"] and form["spk_id"] == ["中文女"] and "happy" in form["instruct_text"][0]
    for _ in range(2):
        with pytest.raises(BadRecord):
            cosy.speak("你好", speakers()[0], "happy", "high", "zh", 0)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 24000, format="WAV", subtype="PCM_16")
    answers += [(200, buffer.getvalue()), (401, b"")]
    monkeypatch.setenv("AZURE_SPEECH_KEY", "secret")
    azure = AzureSpeech(address + "/cognitiveservices/v1")
    got, rate = azure.speak("Fish & <chips>", speakers()[0], "sad", "low", "en", 0)
    _, headers, body = requests[-1]
    assert rate == 24000 and len(got) == 2400 and headers["ocp-apim-subscription-key"] == "secret"
    assert b'style="sad"' in body and b'pitch="-12%"' in body and b"Fish &amp; &lt;chips&gt;" in body
    with pytest.raises(InputError, match="401"):
        azure.speak("Hi", speakers()[0], "sad", "low", "en", 0)


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    for name, address in (("nothing", ""), ("azure", "")):
        with pytest.raises(InputError):
            backend(name, sources=tmp_path, address=address)
    for overrides in (["voice=robot"], ["labels.kind=guess"], ["input=nowhere"], ["jobs=0"], ["speach.backend=x"]):
        with pytest.raises(InputError):
            pipeline.synthesise(load_config(OmniConfig, None, [f"output={tmp_path / 'o'}", *overrides]))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("styles", styles.StylesConfig),
        ("omni", OmniConfig),
        ("interleaved", interleave.InterleaveConfig),
        ("dialogues", dialogues.DialogueConfig),
        ("synthdog", synthdog.PageConfig),
    ],
)
def test_the_shipped_configs_are_read(name: str, cls: type) -> None:
    assert isinstance(load_config(cls, CONFIGS / f"{name}.yaml"), cls)


# --- pages ------------------------------------------------------------------------------------------------------------
def any_font() -> str:
    for path in ("/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf", "DejaVuSans.ttf"):
        try:
            ImageFont.truetype(path, 12)
        except OSError:
            continue
        return path
    pytest.skip("no font on this machine")


@pytest.mark.parametrize(
    "words", ["It was a bright cold day in April.\nThe clocks struck one.\n", "天气很好。\n我们走吧。\n"]
)
def test_pages_are_drawn_from_the_seed_and_hold_their_text(tmp_path: Path, words: str) -> None:
    (tmp_path / "text.txt").write_text(words)
    settings = {"text": str(tmp_path / "text.txt"), "fonts": any_font(), "pages": 3, "width": 480, "height": 320}
    shards = []
    for name in ("a", "b"):
        config = synthdog.PageConfig(**settings, output=str(tmp_path / name))  # type: ignore[arg-type]
        assert synthdog.synthesise(config).records == 3
        shards.append((tmp_path / name / "pages-train-000000.tar").read_bytes())
    assert shards[0] == shards[1]
    for sample in read_set(tmp_path / "a"):
        picture = Image.open(io.BytesIO(sample["media"]["0.jpg"]))
        assert picture.size == (480, 320) and np.asarray(picture.convert("L")).std() > 3
        told = sample["messages"][1]["content"][0]["text"]
        assert "".join(told.split()) in "".join(words.split())
        assert plain_text(sample["messages"]).endswith(told)


def test_what_does_not_fit_on_a_page_is_not_in_its_text() -> None:
    font = ImageFont.truetype(any_font(), 20)
    lines = synthdog.wrap("one two three four five six", font, font.getlength("one two "), 2)
    assert lines == ["one two", "three"]
    assert synthdog._after("one two three", 6) == "three"
