"""What a realtime session is set to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from emova.speech.style import StyleSet
from emova.speech.vad import TurnConfig
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

    def changed(self, wish: types.SessionWish, model: str) -> Settings:
        """With what ``wish`` says; what it does not name stays. Raises: ApiError: there is no such voice or style."""
        changes: dict[str, Any] = {name: getattr(wish, name) for name in {"emotion", "pitch"} & wish.model_fields_set}
        check_style(self.styles, changes.get("emotion"), changes.get("pitch"))
        if wish.instructions is not None:
            changes["instructions"] = wish.instructions
        if wish.output_modalities is not None:
            changes["modalities"] = tuple(wish.output_modalities)
        sound = wish.audio or types.Audio()
        if sound.output is not None and sound.output.voice is not None:
            changes["voice"] = chosen_voice(self.styles, sound.output.voice)
        if sound.input is not None:
            if "turn_detection" in sound.input.model_fields_set:
                changes["turns"] = _turn_detection(sound.input.turn_detection)
            if "transcription" in sound.input.model_fields_set:
                wanted = sound.input.transcription
                changes["transcription"] = (wanted.model or model) if wanted else None
        return replace(self, **changes)

    def shown(self, model: str) -> dict[str, Any]:
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


def _turn_detection(wish: types.ServerVad | None) -> TurnDetection | None:
    if wish is None:
        return None
    config = TurnConfig(wish.threshold, wish.prefix_padding_ms, wish.silence_duration_ms)
    return TurnDetection(config, wish.create_response, wish.interrupt_response)
