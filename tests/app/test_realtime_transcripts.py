"""What is said is read while it is said: words that stay, as deltas which together are the transcript, and drafts."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest

from emova import Assistant
from tests.app.conftest import Running
from tests.app.fixtures_realtime import KEY, MODEL, QUESTION, RATE, pcm

openai = pytest.importorskip("openai")

PREFIX = "conversation.item.input_audio_transcription."
LONG = np.resize(np.concatenate([QUESTION, np.zeros(RATE // 4, dtype=np.float32)]), 16 * RATE)


@pytest.fixture(scope="module")
def server(serving) -> Iterator[Running]:
    """The shipped model, which reads long speech in windows."""
    from emova_app.server.config import ServerConfig

    with serving(Assistant.from_pretrained(), ServerConfig(port=0, api_key=KEY, drain_seconds=2)) as server:
        yield server


@pytest.mark.parametrize(("sound", "drafts"), [(LONG, True), (QUESTION, False)])
def test_deltas_are_the_transcript_and_drafts_follow_the_speech(server, sound, drafts) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY)
    with client.realtime.connect(model=MODEL) as connection:
        transcription = {"model": MODEL, "drafts": drafts}
        audio = {"input": {"turn_detection": None, "transcription": transcription}}
        connection.session.update(session={"type": "realtime", "audio": audio, "output_modalities": ["text"]})
        for piece in np.array_split(sound, 32):
            connection.input_audio_buffer.append(audio=base64.b64encode(pcm(piece)).decode())
        connection.input_audio_buffer.commit()
        connection.response.create()
        deltas, early, drafted, item_id, transcript = "", "", [], "", ""
        for event in connection:
            assert event.type != "error", event
            if event.type == "input_audio_buffer.committed":
                early, item_id = deltas, event.item_id
            elif event.type == PREFIX + "delta":
                deltas += event.delta
                drafted += [event.draft] if drafts and not early and not item_id else []
                assert hasattr(event, "draft") == (drafts and not item_id)
            elif event.type == PREFIX + "completed":
                transcript = event.transcript
                assert event.item_id == item_id
            elif event.type == "response.done":
                break
    assert deltas == transcript != ""
    if drafts:
        assert early and len(early) < len(transcript)
        assert len(drafted) > 8 and sum("cheese" in draft for draft in drafted) > 4
    else:
        assert not early
