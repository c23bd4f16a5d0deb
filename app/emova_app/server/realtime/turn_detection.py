"""When a turn begins and ends, as clients ask for it: what cannot be is replaced, and told, and the rest holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emova.speech.turn_end import EAGERNESS, SemanticTurnConfig
from emova.speech.vad import TurnConfig
from emova_app.server.json_types import JsonObject

_USUAL = TurnConfig()
_PLACE = "audio.input.turn_detection"
_NO_EFFECT = ("idle_timeout_ms",)


@dataclass(frozen=True)
class TurnDetection:
    """Turns by voice activity, or by what is said.

    Attributes:
        config: when one begins and ends.
        create_response: whether its end asks for an answer.
        interrupt_response: whether its start breaks off an answer.
    """

    config: TurnConfig | SemanticTurnConfig = _USUAL
    create_response: bool = True
    interrupt_response: bool = True

    def shown(self) -> JsonObject:
        """As OpenAI's object."""
        both: JsonObject = {
            "create_response": self.create_response,
            "interrupt_response": self.interrupt_response,
        }
        if isinstance(self.config, SemanticTurnConfig):
            return {"type": "semantic_vad", "eagerness": self.config.eagerness, **both}
        return {
            "type": "server_vad",
            "threshold": self.config.threshold,
            "prefix_padding_ms": self.config.prefix_ms,
            "silence_duration_ms": self.config.silence_ms,
            **both,
        }


class _Reading:
    """Fields of a client's object, and notices of those that were replaced."""

    def __init__(self, given: JsonObject) -> None:
        self._given = given
        self.notices: list[str] = []

    def replaced(self, name: str, reason: str, used: object) -> None:
        """Note that a value was."""
        self.notices.append(f"{_PLACE}.{name}: {reason}; {used} is used")

    def choice(self, name: str, words: tuple[str, ...], usual: str) -> str:
        """One of ``words``."""
        value = self._given.get(name, usual)
        if value in words:
            return str(value)
        self.replaced(name, "null" if value is None else f"none of {', '.join(words)}", usual)
        return usual

    def flag(self, name: str) -> bool:
        """True or false; true if it is left out."""
        value = self._given.get(name, True)
        if isinstance(value, bool):
            return value
        self.replaced(name, "null" if value is None else "neither true nor false", "true")
        return True

    def number(self, name: str, least: float, most: float, usual: float) -> float:
        """A number within its bounds; the nearest one if it lies outside."""
        value = self._given.get(name, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.replaced(name, "null" if value is None else "no number", f"{usual:g}")
            return usual
        nearest = min(max(value, least), most)
        if nearest != value:
            self.replaced(name, f"not within {least:g} and {most:g}", f"{nearest:g}")
        return nearest


def read_turn_detection(given: JsonObject) -> tuple[TurnDetection, list[str]]:
    """What is possible of what a client asks for, and what was replaced, in words."""
    reading = _Reading(given)
    kind = reading.choice("type", ("server_vad", "semantic_vad"), "server_vad")
    config: TurnConfig | SemanticTurnConfig
    if kind == "semantic_vad":
        config = SemanticTurnConfig(reading.choice("eagerness", tuple(EAGERNESS), "auto"))
    else:
        config = TurnConfig(
            reading.number("threshold", 0.16, 0.99, _USUAL.threshold),
            round(reading.number("prefix_padding_ms", 0, 2000, _USUAL.prefix_ms)),
            round(reading.number("silence_duration_ms", 64, 10_000, _USUAL.silence_ms)),
        )
    create, interrupt = reading.flag("create_response"), reading.flag("interrupt_response")
    reading.notices += [f"{_PLACE}.{name}: has no effect here" for name in _NO_EFFECT if given.get(name) is not None]
    return TurnDetection(config, create, interrupt), reading.notices
