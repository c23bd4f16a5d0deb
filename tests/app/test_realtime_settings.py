"""What a realtime session can be set to: by name, by the beta's names, in part; nothing is ignored silently."""

from __future__ import annotations

import base64

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")

from emova_app.g711 import from_alaw, from_ulaw, to_alaw, to_ulaw
from tests.app.fixtures_realtime import CASES, KEY, MODEL, QUESTION, Caller, calling
from tests.hearing import understood

USUAL = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
BOTH = {"create_response": True, "interrupt_response": True}


@pytest.fixture()
def caller(running):
    with calling(running.url) as caller:
        yield caller


def case(caller: Caller, name: str) -> dict:
    caller.socket.send((CASES / name).read_text())
    return caller.recv()


def test_rt_semantic_vad_json(caller) -> None:
    event = case(caller, "rt_semantic_vad.json")
    assert event["type"] == "session.updated" and "notices" not in event
    session = event["session"]
    assert session["instructions"] == "Be brief." and session["audio"]["input"]["transcription"] == {"model": "x"}
    assert session["audio"]["input"]["turn_detection"] == {"type": "semantic_vad", "eagerness": "auto", **BOTH}


def test_rt_flat_session_json(caller) -> None:
    event = case(caller, "rt_flat_session.json")
    assert event["type"] == "session.updated" and "notices" not in event
    session = event["session"]
    assert session["output_modalities"] == ["text"]
    heard = session["audio"]["input"]
    assert heard == {"format": {"type": "audio/pcmu"}, "turn_detection": None, "transcription": {"model": "x"}}


@pytest.mark.parametrize(
    ("given", "shown", "told"),
    [
        ({"type": "semantic_vad", "eagerness": "low"}, {"type": "semantic_vad", "eagerness": "low", **BOTH}, []),
        (
            {"type": "semantic_vad", "eagerness": "wild", "interrupt_response": None},
            {"type": "semantic_vad", "eagerness": "auto", **BOTH},
            ["eagerness: none of low, medium, high, auto; auto is used", "interrupt_response: null; true is used"],
        ),
        (
            {"type": None, "threshold": None, "silence_duration_ms": 0, "prefix_padding_ms": 1e9},
            {**USUAL, "silence_duration_ms": 64, "prefix_padding_ms": 2000, **BOTH},
            [
                "type: null; server_vad is used",
                "threshold: null; 0.5 is used",
                "prefix_padding_ms: not within 0 and 2000; 2000 is used",
                "silence_duration_ms: not within 64 and 10000; 64 is used",
            ],
        ),
        (
            {"type": "server_vad", "threshold": 7, "silence_duration_ms": "long", "create_response": False},
            {**USUAL, "threshold": 0.99, "create_response": False, "interrupt_response": True},
            ["threshold: not within 0.16 and 0.99; 0.99 is used", "silence_duration_ms: no number; 500 is used"],
        ),
        ({"type": "azure_semantic_vad", "idle_timeout_ms": 5000}, {**USUAL, **BOTH}, None),
        ({}, {**USUAL, **BOTH}, []),
    ],
)
def test_of_turn_detection_the_rest_holds(caller, given: dict, shown: dict, told: list[str] | None) -> None:
    event = caller.update(audio={"input": {"turn_detection": given}}, instructions="Be kind.")
    assert event["session"]["instructions"] == "Be kind."
    assert event["session"]["audio"]["input"]["turn_detection"] == shown
    notices = event.get("notices", [])
    if told is None:
        assert any(": none of server_vad, semantic_vad" in notice for notice in notices)
        assert "audio.input.turn_detection.idle_timeout_ms: has no effect here" in notices
    else:
        assert notices == [f"audio.input.turn_detection.{each}" for each in told]


@pytest.mark.parametrize(
    ("flat", "path", "shown"),
    [
        ({"modalities": ["audio", "text"]}, ("output_modalities",), ["audio"]),
        ({"voice": "onyx"}, ("audio", "output", "voice"), "male"),
        ({"output_audio_format": "g711_alaw"}, ("audio", "output", "format"), {"type": "audio/pcma"}),
        ({"input_audio_format": "pcm16"}, ("audio", "input", "format"), {"type": "audio/pcm", "rate": 24000}),
        ({"input_audio_transcription": None}, ("audio", "input", "transcription"), None),
        ({"turn_detection": {"type": "semantic_vad"}}, ("audio", "input", "turn_detection", "type"), "semantic_vad"),
        ({"max_response_output_tokens": 99}, ("max_output_tokens",), 99),
        ({"voice": "onyx", "audio": {"output": {"voice": "alloy"}}}, ("audio", "output", "voice"), "female"),
    ],
)
def test_flat_fields_work(caller, flat: dict, path: tuple[str, ...], shown: object) -> None:
    value = caller.update(**flat)["session"]
    for name in path:
        value = value[name]
    assert value == shown


@pytest.mark.parametrize(
    ("session", "named"),
    [
        ({"input_audio_format": "mp3"}, "session.input_audio_format"),
        ({"output_audio_format": 3}, "session.output_audio_format"),
        ({"modalities": ["video"]}, "session.modalities"),
        ({"turn_detection": "server_vad"}, "session.turn_detection"),
        ({"input_audio_transcription": "whisper"}, "session.input_audio_transcription"),
        ({"voice": 3}, "session.voice"),
        ({"voice": "my voice"}, "voice"),
        ({"max_response_output_tokens": -1}, "session.max_response_output_tokens"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.input.format"),
    ],
)
def test_or_the_error_names_them(caller, session: dict, named: str) -> None:
    caller.send("session.update", session={"instructions": "Be kind.", **session})
    event = caller.recv()
    assert event["type"] == "error" and event["error"]["param"].startswith(named), event
    assert caller.update()["session"]["instructions"] == "", "all or nothing"


def test_what_has_no_effect_is_told(caller) -> None:
    audio = {"input": {"noise_reduction": {"type": "near_field"}}, "output": {"speed": 1.5}}
    told = caller.update(audio=audio, temperature=0.8, tracing=None, unheard_of=1, model="gpt-realtime")["notices"]
    names = {notice.split(":")[0] for notice in told}
    assert names == {"audio.input.noise_reduction", "audio.output.speed", "temperature", "unheard_of", "model"}
    # What the common clients send as a matter of course is nothing to tell.
    quiet = {"audio": {"input": {"noise_reduction": None}, "output": {"speed": 1.0}}, "truncation": "auto"}
    assert "notices" not in caller.update(**quiet, tool_choice="auto", tools=[], max_output_tokens="inf", model=MODEL)


@pytest.mark.parametrize(("law", "to", "back"), [("pcmu", to_ulaw, from_ulaw), ("pcma", to_alaw, from_alaw)])
def test_telephone_sound_both_ways(caller, law: str, to, back) -> None:
    import soxr

    wire = {"type": f"audio/{law}"}
    heard = {"format": wire, "turn_detection": None, "transcription": {"model": MODEL}}
    caller.update(audio={"input": heard, "output": {"format": wire}})
    sound = to(soxr.resample(QUESTION, 24_000, 8_000))
    for start in range(0, len(sound), 160):  # 20 ms, as telephones send
        caller.send("input_audio_buffer.append", audio=base64.b64encode(sound[start : start + 160]).decode())
    caller.send("input_audio_buffer.commit")
    caller.send("response.create")
    done = caller.until("response.done")["response"]
    assert done["status"] == "completed" and done["audio"]["output"]["format"] == wire
    kind = "conversation.item.input_audio_transcription.completed"
    (heard,) = [event["transcript"] for event in caller.events if event["type"] == kind]
    assert understood(heard), heard
    said = b"".join(base64.b64decode(e["delta"]) for e in caller.events if e["type"] == "response.output_audio.delta")
    samples = back(said)
    # 24 units of 40 ms at 8 kHz, a byte a sample, and it is a voice: neither silence nor noise at full scale.
    assert abs(len(samples) - 24 * 320) <= 320 and 0.02 < np.sqrt(np.mean(samples**2)) < 0.5


def test_so_many_tokens_at_most(caller) -> None:
    caller.manual()
    lengths = []
    for most in (32, "inf"):
        caller.item("user", "Hello, how are you?")
        caller.events = []
        assert caller.answer(output_modalities=["audio"], max_output_tokens=most)["status"] == "completed"
        lengths.append(sum(len(event["delta"]) for event in caller.events if event["type"].endswith("audio.delta")))
    assert lengths[0] < lengths[1]


# --- keys -------------------------------------------------------------------------------------------------------------
def test_keys_of_every_kind(running) -> None:
    from websockets.exceptions import InvalidStatus

    for scheme in ("Bearer", "bearer", "BEARER"):
        with calling(running.url, "", additional_headers={"Authorization": f"{scheme} {KEY}"}) as caller:
            assert caller.events[0]["type"] == "session.created"
    offered = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    with calling(running.url, "", subprotocols=offered) as caller:
        assert caller.socket.subprotocol == "realtime", "the key does not come back"
    for wrong in ("", "wrong", KEY + "x", KEY[:-1]):
        with (
            pytest.raises(InvalidStatus),
            calling(running.url, "", subprotocols=["realtime", f"openai-insecure-api-key.{wrong}"]),
        ):
            pass
    with pytest.raises(InvalidStatus), calling(running.url, "", additional_headers={"Authorization": f"Basic {KEY}"}):
        pass
