"""Spoken conversations of three turns, one of them interrupted, with programs that people use, as they come."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")

from emova import Assistant
from tests.app.conftest import Running
from tests.app.fixtures_realtime import KEY, MODEL, QUESTION, RATE, pcm, silence
from tests.hearing import understood

SPOKEN = pcm(np.concatenate([silence(0.3), QUESTION, silence(1.2)]))
PIECE = RATE // 50 * 2  # bytes of 20 ms
INSTALL = "run make setup-dev, which installs the clients too"
SECONDS = 90
CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def server(serving) -> Iterator[Running]:
    """The shipped model with its usual limits: its answers are long enough to be interrupted."""
    from emova_app.server.config import ServerConfig

    with serving(Assistant.from_pretrained(), ServerConfig(port=0, api_key=KEY, drain_seconds=2)) as server:
        yield server


@pytest.fixture()
def address(server) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/realtime?model={MODEL}"


async def speak(send: Callable[[bytes], Awaitable[None]]) -> None:
    """The question, a little faster than life."""
    for start in range(0, len(SPOKEN), PIECE):
        await send(SPOKEN[start : start + PIECE])
        await asyncio.sleep(0.005)


def in_time(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, SECONDS)

    asyncio.run(bounded())


# --- openai-agents ----------------------------------------------------------------------------------------------------
def test_openai_agents(address: str) -> None:
    realtime = pytest.importorskip("agents.realtime", reason=INSTALL)

    async def talk() -> None:
        agent = realtime.RealtimeAgent(name="Assistant", instructions="Be kind.")
        model = {"url": address, "api_key": KEY}
        seen: dict[str, list[Any]] = {}
        async with await realtime.RealtimeRunner(agent).run(model_config=model) as session:
            speaking = [asyncio.create_task(speak(session.send_audio))]
            async for event in session:
                seen.setdefault(event.type, []).append(event)
                assert event.type != "error", event
                answers = len(seen.get("agent_start", ()))
                # The first answer is interrupted as soon as it is heard; the second one is heard out.
                first_heard = event.type == "audio" and answers == 1 and len(speaking) == 1
                if first_heard or (event.type == "agent_end" and answers == 2):
                    speaking.append(asyncio.create_task(speak(session.send_audio)))
                if event.type == "agent_end" and answers == 3:
                    break
            await asyncio.gather(*speaking)
            history = [item for item in session._history if item.type == "message"]
        assert len(seen["audio_interrupted"]) >= 1
        assert [item.role for item in history] == ["user", "assistant"] * 3
        assert all(understood(item.content[0].transcript) for item in history[::2]), history
        assert all(item.content[0].transcript for item in history[3::2])

    in_time(talk())


def test_openai_agents_in_node(address: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (CLIENTS / "node_modules" / "@openai" / "agents-realtime").is_dir():
        pytest.skip(f"Node or its packages are not installed; install Node and {INSTALL}")
    sound = tmp_path / "question.pcm"
    sound.write_bytes(SPOKEN)
    command = [node, str(CLIENTS / "talk.mjs"), address, KEY, str(sound)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["errors"] and told["answers"] == 3 and told["interrupted"] >= 1
    assert told["bytes"] > RATE, "a sound of half a second at least"
    assert [role for role, _ in told["history"]] == ["user", "assistant"] * 3
    assert all(understood(text) for _, text in told["history"][::2]), told["history"]
    assert all(text for _, text in told["history"][3::2])


# --- LiveKit ----------------------------------------------------------------------------------------------------------
def test_livekit(server) -> None:
    pytest.importorskip("livekit.plugins.openai", reason=INSTALL)
    from livekit import rtc
    from livekit.agents import llm
    from livekit.plugins.openai.realtime import RealtimeModel

    async def heard(generation: llm.GenerationCreatedEvent, sounds: asyncio.Event | None = None) -> tuple[str, int]:
        """The text of an answer and the samples of its sound."""
        text, samples = "", 0

        async def read(message: llm.MessageGeneration) -> None:
            nonlocal text, samples

            async def words() -> None:
                nonlocal text
                async for piece in message.text_stream:
                    text += piece

            reading = asyncio.create_task(words())
            async for frame in message.audio_stream:
                samples += frame.samples_per_channel
                if sounds is not None:
                    sounds.set()
            await reading

        async for message in generation.message_stream:
            await read(message)
        return text, samples

    async def talk() -> None:
        model = RealtimeModel(model=MODEL, base_url=server.url, api_key=KEY)
        session = model.session()
        errors: list[object] = []
        generations: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
        transcripts: list[str] = []
        interruptions: list[object] = []
        session.on("error", errors.append)
        session.on("generation_created", generations.put_nowait)
        session.on("input_speech_started", interruptions.append)
        session.on(
            "input_audio_transcription_completed", lambda e: transcripts.extend([e.transcript] if e.is_final else [])
        )

        async def send(data: bytes) -> None:
            session.push_audio(rtc.AudioFrame(data, RATE, 1, len(data) // 2))

        await session.update_instructions("Be kind.")
        context = llm.ChatContext.empty()
        context.add_message(role="assistant", content="Hello, I am here.", id="first")
        context.add_message(role="user", content="What is this?", id="second")
        context.add_message(role="assistant", content="A red ball.", id="third")
        await session.update_chat_ctx(context)
        assert [item.id for item in session.chat_ctx.items] == ["first", "second", "third"]
        # Of a context that it knows: one item is gone, one has another text, one is new between.
        changed = llm.ChatContext.empty()
        changed.add_message(role="user", content="What is this?", id="second")
        changed.add_message(role="system", content="Be brief.", id="new")
        changed.add_message(role="assistant", content="A blue ball.", id="third")
        await session.update_chat_ctx(changed)
        assert [item.id for item in session.chat_ctx.items] == ["second", "new", "third"]
        last = session.chat_ctx.items[-1]
        assert isinstance(last, llm.ChatMessage) and last.text_content == "A blue ball."

        text, samples = await heard(await session.generate_reply(instructions="Say hello to the user."))
        assert text and samples > RATE // 4
        await generations.get()

        await speak(send)
        first = await generations.get()
        sounds = asyncio.Event()
        listening = asyncio.create_task(heard(first, sounds))
        await sounds.wait()
        before = len(interruptions)
        await speak(send)  # into the answer
        await listening
        assert len(interruptions) > before
        text, samples = await heard(await generations.get())
        assert text and samples
        await speak(send)
        text, samples = await heard(await generations.get())
        assert text and samples
        assert len(transcripts) == 3 and all(map(understood, transcripts)) and not errors, transcripts
        roles = [item.role for item in session.chat_ctx.items if item.type == "message"][3:]
        assert roles == ["assistant", *["user", "assistant"] * 3]
        await session.aclose()
        await model.aclose()

    in_time(talk())


# --- Pipecat ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("turns", ["defaults", "semantic"])
def test_pipecat(address: str, turns: str) -> None:
    pytest.importorskip("pipecat.services.openai.realtime.llm", reason=INSTALL)
    from pipecat.frames.frames import (
        EndFrame,
        ErrorFrame,
        Frame,
        InputAudioRawFrame,
        InterruptionFrame,
        LLMFullResponseEndFrame,
        LLMRunFrame,
        TTSAudioRawFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.services.openai.realtime import events
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
    from pipecat.workers.runner import WorkerRunner

    class Listener(FrameProcessor):  # type: ignore[misc]  # the package is not there for who checks types
        """Where a loudspeaker would be."""

        def __init__(self) -> None:
            super().__init__()
            self.heard: asyncio.Queue[Frame] = asyncio.Queue()

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame | LLMFullResponseEndFrame | InterruptionFrame | ErrorFrame):
                self.heard.put_nowait(frame)
            await self.push_frame(frame, direction)

        async def until(self, kind: type[Frame]) -> Frame:
            while not isinstance(frame := await self.heard.get(), kind):
                assert not isinstance(frame, ErrorFrame), frame
            return frame

    settings: dict[str, Any] = {"model": MODEL, "system_instruction": "Be kind."}
    if turns == "semantic":
        heard = events.AudioInput(
            transcription=events.InputAudioTranscription(),
            turn_detection=events.SemanticTurnDetection(eagerness="high"),
        )
        settings["session_properties"] = events.SessionProperties(audio=events.AudioConfiguration(input=heard))

    async def talk() -> None:
        service = OpenAIRealtimeLLMService(
            api_key=KEY,
            base_url=address.split("?")[0],
            settings=OpenAIRealtimeLLMService.Settings(**settings),
        )
        context = LLMContext([{"role": "user", "content": "Say hello."}])
        both, listener = LLMContextAggregatorPair(context), Listener()

        def contents(role: str) -> list[Any]:
            messages = [each for each in context.get_messages() if isinstance(each, dict)]
            return [each.get("content") for each in messages if each["role"] == role]

        errors: list[object] = []
        worker = PipelineWorker(
            Pipeline([both.user(), service, listener, both.assistant()]), cancel_on_idle_timeout=False
        )
        service.add_event_handler("on_error", lambda *error: errors.append(error))
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def on_started(*_: object) -> None:
            started.set()

        async def send(data: bytes) -> None:
            await worker.queue_frame(InputAudioRawFrame(data, RATE, 1))

        async def people() -> None:
            await started.wait()
            await worker.queue_frame(LLMRunFrame())  # the bot greets
            await listener.until(TTSAudioRawFrame)
            await listener.until(LLMFullResponseEndFrame)
            await speak(send)
            await listener.until(TTSAudioRawFrame)
            await speak(send)  # into the answer
            await listener.until(InterruptionFrame)
            await listener.until(TTSAudioRawFrame)
            await listener.until(LLMFullResponseEndFrame)
            await speak(send)
            await listener.until(TTSAudioRawFrame)
            await listener.until(LLMFullResponseEndFrame)
            await worker.queue_frame(EndFrame())

        runner = WorkerRunner()
        await runner.add_workers(worker)
        await asyncio.gather(runner.run(), people())
        assert not errors
        said = contents("assistant")
        assert len(said) >= 3 and all(said)
        if turns == "semantic":
            asked = contents("user")
            assert len(asked) == 4 and all(map(understood, asked[1:])), asked

    in_time(talk())
