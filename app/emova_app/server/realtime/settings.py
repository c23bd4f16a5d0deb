"""What a realtime session is set to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from emova.speech.style import StyleSet
from emova.speech.vad import TurnConfig
from emova_app.server.json_types import JsonObject
from emova_app.server.realtime import types
from emova_app.server.realtime.answering import RATE
from emova_app.server.service import check_style, find_voice


@dataclass(frozen=True)
class TurnDetection:
    """Turns by voice activity.

    Attributes:
        config: when one begins and ends.
        create_response: whether its end asks for an answer.
        interrupt_response: whether its start breaks off an answer.
    """

    config: TurnConfig = TurnConfig()
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True)
class Settings:
    """What a client has chosen.

    Attributes:
        styles: what the checkpoint has; a client cannot change it.
        turns: None leaves it to the client when a question ends.
        transcription: a name if the client wants to read what it said.
    """

    styles: StyleSet
    voice: str
    instructions: str = ""
    modalities: tuple[str, ...] = ("audio",)
    turns: TurnDetection | None = TurnDetection()
    transcription: str | None = None
    emotion: str | None = None
    pitch: str | None = None

    def changed(self, changes: types.SessionChanges, model: str) -> Settings:
        """With what ``changes`` say; what they do not name stays. Raises: ApiError: there is no such voice or style."""
        given, sound = changes.model_fields_set, changes.audio or types.Audio()
        check_style(self.styles, changes.emotion, changes.pitch)
        heard = sound.input or types.AudioIn()
        wanted = heard.transcription
        transcription = (wanted.model or model) if wanted else None
        voice = None if sound.output is None else sound.output.voice
        return replace(
            self,
            emotion=changes.emotion if "emotion" in given else self.emotion,
            pitch=changes.pitch if "pitch" in given else self.pitch,
            instructions=self.instructions if changes.instructions is None else changes.instructions,
            modalities=tuple(changes.output_modalities or self.modalities),
            voice=self.voice if voice is None else chosen_voice(self.styles, voice),
            turns=_turn_detection(heard.turn_detection) if "turn_detection" in heard.model_fields_set else self.turns,
            transcription=transcription if "transcription" in heard.model_fields_set else self.transcription,
        )

    def shown(self, model: str) -> JsonObject:
        """As OpenAI's session object."""
        pcm = {"type": "audio/pcm", "rate": RATE}
        detection = self.turns and {
            "type": "server_vad",
            "threshold": self.turns.config.threshold,
            "prefix_padding_ms": self.turns.config.prefix_ms,
            "silence_duration_ms": self.turns.config.silence_ms,
            "create_response": self.turns.create_response,
            "interrupt_response": self.turns.interrupt_response,
        }
        transcription = {"model": self.transcription} if self.transcription else None
        return {
            "type": "realtime",
            "object": "realtime.session",
            "model": model,
            "instructions": self.instructions,
            "output_modalities": list(self.modalities),
            "audio": {
                "input": {"format": pcm, "turn_detection": detection, "transcription": transcription},
                "output": {"format": pcm, "voice": self.voice, "speed": 1.0},
            },
            "tools": [],
            "emotion": self.emotion,
            "pitch": self.pitch,
        }


def chosen_voice(styles: StyleSet, wanted: str | types.VoiceId) -> str:
    """Our voice for a client's. Raises: ApiError: there is no such voice."""
    return find_voice(styles, wanted if isinstance(wanted, str) else wanted.id)


def _turn_detection(detection: types.ServerVad | None) -> TurnDetection | None:
    if detection is None:
        return None
    config = TurnConfig(detection.threshold, detection.prefix_padding_ms, detection.silence_duration_ms)
    return TurnDetection(config, detection.create_response, detection.interrupt_response)
