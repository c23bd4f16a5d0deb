"""How long it takes to be answered by voice: from the end of the spoken question to the first sound of the reply.

The same task measures emova itself and any model behind the OpenAI-compatible chat API with audio (``modalities``
``text`` and ``audio``, streamed as pcm16), so that peers can be measured with one tool. Both read the question whole,
from a file: what a client gains by sending speech while it is spoken is not in these figures. The clock starts when
the request is made and includes the network; a question that gets no sound counts as the time limit.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emova.core.errors import InputError
from emova_eval.suite.samples import Example, Output, Record, Score
from emova_eval.suite.scoring import Metric
from emova_eval.suite.tasks import MetricTask

if TYPE_CHECKING:
    from emova.assistant import Assistant

MAX_LINE_BYTES = 8 << 20
PCM_RATE = 24000


@dataclass(frozen=True)
class TalkerConfig:
    """A model behind an OpenAI-compatible address.

    Args:
        url: the base, e.g. ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is added.
        model: the name the endpoint knows.
        voice: the voice that it speaks with.
        key_variable: the environment variable with the key.
        timeout: seconds for one answer; a longer one is cut there.
        sample_rate: of its pcm16, in Hz.
    """

    url: str
    model: str
    voice: str = "alloy"
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    sample_rate: int = PCM_RATE


@dataclass(frozen=True)
class Moment:
    """Something that came, ``seconds`` after the request: text, or pcm16 bytes."""

    seconds: float
    text: str = ""
    sound: bytes = b""


class EndpointTalker:
    """Asks the endpoint by voice. Raises: InputError: the address is none."""

    def __init__(self, config: TalkerConfig) -> None:
        if not config.url.startswith(("http://", "https://")):
            raise InputError("endpoint: the address must begin with http:// or https://")
        if not config.model:
            raise InputError("endpoint: name its model with --endpoint-model")
        self.config = config
        self.name = config.model
        self.sample_rate = config.sample_rate

    def talk(self, audio: str) -> Iterator[Moment]:
        """What comes back for a recording, as it comes.

        Raises:
            RuntimeError: the endpoint fails.
            ValueError: what it sends is no chat completion.
        """
        config = self.config
        sound = {"data": base64.b64encode(Path(audio).read_bytes()).decode(), "format": Path(audio).suffix[1:] or "wav"}
        body = {
            "model": config.model,
            "modalities": ["text", "audio"],
            "audio": {"voice": config.voice, "format": "pcm16"},
            "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}],
            "stream": True,
        }
        headers = {"Content-Type": "application/json"}
        if config.key_variable and (key := os.environ.get(config.key_variable)):
            headers["Authorization"] = f"Bearer {key}"
        url = config.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        begun = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=config.timeout) as response:
                for line in _lines(response, begun + config.timeout):
                    for text, data in _parts(line):
                        yield Moment(time.perf_counter() - begun, text, data)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"endpoint: status {error.code}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise RuntimeError(f"endpoint: {type(error).__name__}") from None


def _lines(response: http.client.HTTPResponse, end: float) -> Iterator[str]:
    while line := response.readline(MAX_LINE_BYTES):
        if time.perf_counter() > end:
            return  # endless: what came so far is the answer
        text = line.decode("utf-8", "replace").strip()
        if text.startswith("data:"):
            text = text[5:].strip()
        if text == "[DONE]":
            return
        if text.startswith("{"):
            yield text


def _parts(line: str) -> Iterator[tuple[str, bytes]]:
    """Text and pcm16 of one event: OpenAI's ``delta.audio``, vLLM's ``modality``, or a whole message."""
    try:
        event = json.loads(line)
        if not isinstance(event, dict):
            raise ValueError
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or choice.get("message") or {}
            audio = delta.get("audio") or {}
            content = delta.get("content") or ""
            if event.get("modality") == "audio":
                audio, content = {"data": content}, ""
            text = content or audio.get("transcript") or ""
            sound = base64.b64decode(audio.get("data") or "", validate=True)
            if text or sound:
                yield str(text), sound
    except (ValueError, AttributeError, TypeError, binascii.Error):
        raise ValueError("endpoint: an event that is no chat completion chunk") from None


class Talker(Protocol):
    """What speaks while it is timed; its pcm16 has ``sample_rate`` Hz."""

    name: str
    sample_rate: int

    def talk(self, audio: str) -> Iterator[Moment]:
        """What comes in answer to a recording, as it comes."""
        ...


class AssistantTalker:
    """emova itself, in this process."""

    def __init__(self, assistant: Assistant, name: str = "emova") -> None:
        self.assistant, self.name = assistant, name
        self.sample_rate = assistant.voice.sample_rate

    def talk(self, audio: str) -> Iterator[Moment]:
        """What the assistant writes and says, as it comes."""
        from emova.events import AudioChunk
        from emova.reply.parser import TextDelta

        begun = time.perf_counter()
        for event in self.assistant.conversation().stream(audio=audio):
            if isinstance(event, TextDelta):
                yield Moment(time.perf_counter() - begun, event.text)
            elif isinstance(event, AudioChunk):
                sound = (np.clip(event.samples, -1, 1) * 32767).astype("<i2").tobytes()
                yield Moment(time.perf_counter() - begun, sound=sound)


def median_seconds(records: Sequence[Record]) -> float:
    """The median over records; what failed counts as the time limit."""
    return float(np.median([record.value for record in records])) if records else 0.0


class LatencyTask(MetricTask):
    """Seconds to the first sound: the median, and in ``further`` the 95th percentile, first text, whole answer, and the
    real-time factor (time for the whole answer over the length of its sound).

    The first question is asked once before the clock counts, since a server may load its model then.
    """

    def __init__(
        self, items: Sequence[Example], repeats: int = 3, limit_s: float = 60.0, name: str = "latency"
    ) -> None:
        def seconds(said: str, example: Example) -> Score:
            return Score(limit_s)

        metric = Metric(
            "latency", seconds, "s", False, median_seconds, lambda record: record.id.rpartition("/")[0] or record.id
        )
        asked = [
            Example(f"{item.id}/{turn}", item.text, item.audio, answers=item.answers)
            for item in items
            for turn in range(repeats)
        ]
        super().__init__("latency", asked, metric, "clock of this machine")
        self.limit_s = limit_s
        self._warm = False

    def ask(self, model: Talker, example: Example) -> Output:  # type: ignore[override]  # what it asks may be a server
        """The answer's sound; the moments' times are kept as its ``units`` in milliseconds: text, sound, end."""
        if not self._warm:
            self._warm = True
            list(model.talk(example.audio))
        moments = list(model.talk(example.audio))
        sound = b"".join(moment.sound for moment in moments)
        first = next((moment.seconds for moment in moments if moment.sound), None)
        if first is None:
            raise ValueError("no sound came")
        text = next((moment.seconds for moment in moments if moment.text), first)
        samples = np.frombuffer(sound[: len(sound) // 2 * 2], "<i2").astype(np.float32) / 32768
        times = tuple(round(1000 * seconds) for seconds in (text, first, moments[-1].seconds))
        words = "".join(moment.text for moment in moments)
        return Output(words, units=times, audio=samples, sample_rate=model.sample_rate)

    def score(self, example: Example, output: Output) -> Score:
        """Seconds to the first sound."""
        text, first, whole = (value / 1000 for value in output.units)
        length = len(output.audio) / output.sample_rate if output.audio is not None else 0.0
        return Score(first, notes={"first_text": text, "whole": whole, "sound": round(length, 3)})

    def worst(self, example: Example, failure: str) -> Score:
        """The time limit."""
        notes = {"first_text": self.limit_s, "whole": self.limit_s, "sound": 0.0}
        return Score(self.limit_s, notes=notes, failure=failure)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """Spread, and the other times."""
        if not records:
            return {}
        sound = sum(record.notes["sound"] for record in records)
        whole = sum(record.notes["whole"] for record in records)
        return {
            "p95": float(np.percentile([record.value for record in records], 95)),
            "first_text": float(np.median([record.notes["first_text"] for record in records])),
            "whole": float(np.median([record.notes["whole"] for record in records])),
            **({"real_time_factor": whole / sound} if sound else {}),
        }
