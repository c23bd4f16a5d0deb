"""The real OpenAI client, unchanged, against the server with the shipped model: chat, speech, transcription."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest

import emova
from emova.speech.audio import load_audio

openai = pytest.importorskip("openai")

EXAMPLES = Path(emova.__file__).parent / "checkpoints" / "examples"
QUESTION = (EXAMPLES / "question.wav").read_bytes()
PICTURE = (EXAMPLES / "photo.png").read_bytes()
MODEL = "emova-nano"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shown(data: bytes = PICTURE, kind: str = "image/png") -> dict:
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded(data)}"}}


def shown_from(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def spoken(data: bytes = QUESTION) -> dict:
    return {"type": "input_audio", "input_audio": {"data": encoded(data), "format": "wav"}}


def ask(client, content, **options):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}], **options)


def test_models(client) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_words_equal_the_assistants(client, nano) -> None:
    answer = ask(client, "Hello, how are you?", extra_body={"emotion": "happy"})
    message = answer.choices[0].message
    wanted = nano.chat(text="Hello, how are you?", emotion="happy")
    assert message.content == wanted.text and message.emotion == "happy" and message.pitch == wanted.pitch
    assert message.input_transcript == "Hello, how are you?" and message.audio is None
    assert answer.choices[0].finish_reason in ("stop", "length")  # the weights decide
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus", "pcm16"])
def test_a_spoken_answer_in_every_format(client, nano, kind: str) -> None:
    answer = ask(client, "Hello.", modalities=["text", "audio"], audio={"voice": "onyx", "format": kind})
    message = answer.choices[0].message
    sound = base64.b64decode(message.audio.data)
    wanted = nano.chat(text="Hello.", voice="male")
    rate = wanted.sample_rate
    samples = np.frombuffer(sound, "<i2") / 32768 if kind == "pcm16" else load_audio(sound, rate)
    assert abs(len(samples) - len(wanted.audio)) < 0.12 * rate
    assert message.audio.transcript == wanted.text and message.content is None
    if kind in ("wav", "flac", "pcm16"):
        assert np.abs(samples - wanted.audio).max() < 1e-3


def test_a_stream_is_the_whole(client) -> None:
    wish = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    whole = ask(client, [shown(), spoken()], **wish).choices[0].message
    stream = ask(client, [shown(), spoken()], stream=True, stream_options={"include_usage": True}, **wish)
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    sounds = [dict(delta.audio) for delta in deltas if getattr(delta, "audio", None)]
    assert "".join(sound.get("transcript") or "" for sound in sounds) == whole.audio.transcript
    joined = b"".join(base64.b64decode(sound.get("data") or "") for sound in sounds)
    difference = np.frombuffer(joined, "<i2").astype(int) - np.frombuffer(base64.b64decode(whole.audio.data), "<i2")
    assert np.abs(difference).max() <= 4
    assert sum(bool(sound.get("data")) for sound in sounds) > 1
    styles = [(delta.emotion, delta.pitch) for delta in deltas if getattr(delta, "emotion", None)]
    assert styles == [(whole.emotion, whole.pitch)]
    heard = "".join(getattr(delta, "input_transcript", None) or "" for delta in deltas)
    assert heard == whole.input_transcript
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.total_tokens > 0


def test_a_conversation_continues_by_text_or_by_id(client, nano) -> None:
    chat = nano.conversation("female")
    first = ask(client, [shown(), spoken()], modalities=["text", "audio"], audio={"voice": "female", "format": "wav"})
    assert chat.chat(audio=QUESTION, image=PICTURE).text == first.choices[0].message.audio.transcript
    wanted = chat.chat(text="And why?").text
    history = [{"role": "user", "content": [shown(), spoken()]}]
    last = {"role": "user", "content": "And why?"}
    by_id = {"role": "assistant", "audio": {"id": first.choices[0].message.audio.id}}
    answer = client.chat.completions.create(model=MODEL, messages=[*history, by_id, last])
    assert answer.choices[0].message.content == wanted
    by_text = {"role": "assistant", "content": "It is red."}
    system = {"role": "system", "content": "Be short."}
    answer = client.chat.completions.create(model=MODEL, messages=[system, *history, by_text, last], temperature=0.5)
    assert answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="audio.id"):
        client.chat.completions.create(
            model=MODEL, messages=[*history, {"role": "assistant", "audio": {"id": "audio_0"}}, last]
        )


def test_the_text_can_be_limited(client) -> None:
    answer = ask(client, "Hello, how are you?", max_tokens=2)
    assert answer.choices[0].finish_reason == "length" and len(answer.choices[0].message.content) < 40


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_speech_in_every_format(client, nano, kind: str) -> None:
    speech = client.audio.speech.create(
        model=MODEL, voice="nova", input="The train is late.", response_format=kind, extra_body={"emotion": "sad"}
    )
    from emova.speech.style import Style

    wanted = nano.speak("The train is late.", Style(emotion="sad"))
    if kind == "pcm":
        samples = np.frombuffer(speech.content, "<i2") / 32768
        assert np.abs(samples - wanted.audio).max() < 1e-3
    elif kind != "flac":  # its head says no length while it is streamed; checked in the test of the encoder
        samples = load_audio(speech.content, wanted.sample_rate)
        assert abs(len(samples) - len(wanted.audio)) < 0.15 * wanted.sample_rate


def test_speech_streams(client) -> None:
    with client.audio.speech.with_streaming_response.create(
        model=MODEL, voice="nova", input="The train is late. I am sorry.", response_format="pcm"
    ) as response:
        assert len(list(response.iter_bytes())) > 1
    with client.audio.speech.with_streaming_response.create(
        model=MODEL, voice="nova", input="Hello.", response_format="pcm", stream_format="sse"
    ) as response:
        text = "".join(response.iter_text())
    assert "speech.audio.delta" in text and text.rstrip().endswith('{"type": "speech.audio.done"}')


def test_transcription(client, nano) -> None:
    wanted = nano.transcribe(QUESTION)

    def write_down(**options):
        return client.audio.transcriptions.create(model=MODEL, file=("question.wav", QUESTION), **options)

    assert write_down().text == wanted
    assert write_down(response_format="text").strip() == wanted
    long = write_down(response_format="verbose_json")
    assert long.text == wanted and abs(float(long.duration) - 1.31) < 0.02
    events = list(write_down(stream=True))
    assert events[-1].text == wanted == "".join(event.delta for event in events[:-1]).strip()


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "gpt-4o"},
        {"audio": {"voice": "darth", "format": "wav"}},
        {"audio": {"voice": "alloy", "format": "exe"}},
        {"extra_body": {"emotion": "furious"}},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}]},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": [shown(b"no picture")]}]},
        {"messages": [{"role": "user", "content": [spoken(b"no sound")]}]},
        {"messages": [{"role": "user", "content": [shown()]}]},
        {"messages": [{"role": "user", "content": [spoken(), shown_from("http://169.254.169.254/latest/meta-data")]}]},
        {"messages": [{"role": "user", "content": [shown(), shown()]}]},
        {"messages": [{"role": "user", "content": "x" * 3000}]},
        {"messages": [{"role": "user", "content": [shown(kind="image/png;x")]}], "temperature": 5},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openais_shape(client, wrong: dict, stream: bool) -> None:
    wish = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "modalities": ["text", "audio"], **wrong}
    with pytest.raises(openai.APIStatusError) as caught:
        list(client.chat.completions.create(stream=stream, **wish))
    error = caught.value
    assert error.status_code in (400, 404) and error.type == "invalid_request_error" and error.request_id
    assert error.body["message"] and not re.search(r"Traceback|File \"|/emova/|site-packages|0x", str(error.body))


def test_a_wrong_key(running) -> None:
    import httpx

    for key in ("wrong", "secret-of-testsx"):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=running.url, api_key=key, max_retries=0).models.list()
    for key in ("ü" * 5, "secret-of-testsü"):  # openai's client sends none of these; others do
        answer = httpx.get(f"{running.url}/models", headers={b"Authorization": f"Bearer {key}".encode()})
        assert answer.status_code == 401 and answer.json()["error"]["type"] == "invalid_request_error"


def test_metrics_and_health(client, running) -> None:
    import httpx

    ask(client, "Hello.", modalities=["text", "audio"])
    base = running.url.removesuffix("/v1")
    assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{base}/metrics").status_code == 401
    page = httpx.get(f"{base}/metrics", headers={"Authorization": "Bearer secret-of-tests"}).text
    assert "emova_time_to_first_audio_seconds_count" in page and "emova_queue_depth 0.0" in page
    assert 'route="/v1/chat/completions",status="200"' in page and "emova_real_time_factor_sum" in page
