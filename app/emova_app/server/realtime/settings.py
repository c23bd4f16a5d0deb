"""What a realtime session is set to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from pydantic import BaseModel

from emova.reply.format import ReplyLimits, WordsEnd
from emova.reply.tools import Toolbox
from emova.speech.style import StyleSet
from emova_app.server.json_types import JsonObject
from emova_app.server.realtime import types
from emova_app.server.realtime.sound import FORMATS, PCM, WireFormat
from emova_app.server.realtime.turn_detection import TurnDetection, read_turn_detection
from emova_app.server.service import check_style, find_voice

MAX_NOTICES = 16
# Values with which a field that has no effect asks for nothing.
_ASKS_NOTHING: dict[str, tuple[object, ...]] = {
    "speed": (1, 1.0),
    "object": ("realtime.session",),
    "truncation": ("auto",),
}
_SILENT = ("id", "expires_at")


class _Tools(TypedDict):
    tools: tuple[JsonObject, ...]
    tool_choice: str | JsonObject
    parallel: bool
    toolbox: Toolbox | None


@dataclass(frozen=True)
class Settings:
    """What a client has chosen.

    Attributes:
        styles: what the checkpoint has; a client cannot change it.
        turns: None leaves it to the client when a question ends.
        transcription: a name if the client wants to read what it said.
        drafts: whether it wants to read words, too, that may still change.
        hears, speaks: how sound is written on the wire.
        max_tokens: of an answer, units of speech included; None sets no limit of its own.
        tools, tool_choice, parallel: as the client wrote them.
        toolbox: the same, read.
    """

    styles: StyleSet
    voice: str
    instructions: str = ""
    modalities: tuple[str, ...] = ("audio",)
    turns: TurnDetection | None = TurnDetection()
    transcription: str | None = None
    drafts: bool = False
    emotion: str | None = None
    pitch: str | None = None
    hears: WireFormat = PCM
    speaks: WireFormat = PCM
    max_tokens: int | None = None
    tools: tuple[JsonObject, ...] = ()
    tool_choice: str | JsonObject = "auto"
    parallel: bool = True
    toolbox: Toolbox | None = None

    def changed(self, changes: types.SessionChanges, model: str) -> tuple[Settings, list[str]]:
        """With what ``changes`` say, and what of it was replaced or has no effect; what they do not name stays.

        Raises:
            ApiError: there is no such voice or style.
        """
        given, sound = changes.model_fields_set, changes.audio or types.Audio()
        check_style(self.styles, changes.emotion, changes.pitch)
        heard, said = sound.input or types.AudioIn(), sound.output or types.AudioOut()
        wanted = heard.transcription
        transcription = (wanted.model or model) if wanted else None
        turns, notices = self.turns, _without_effect(changes)
        if "turn_detection" in heard.model_fields_set:
            turns, replaced = (None, []) if heard.turn_detection is None else read_turn_detection(heard.turn_detection)
            notices = replaced + notices
        if changes.model not in (None, model):
            notices.append(f"model: this session has {model}")
        chosen = replace(
            self,
            emotion=changes.emotion if "emotion" in given else self.emotion,
            pitch=changes.pitch if "pitch" in given else self.pitch,
            instructions=self.instructions if changes.instructions is None else changes.instructions,
            modalities=tuple(changes.output_modalities or self.modalities),
            voice=self.voice if said.voice is None else chosen_voice(self.styles, said.voice),
            turns=turns,
            transcription=transcription if "transcription" in heard.model_fields_set else self.transcription,
            drafts=bool(wanted and wanted.drafts) if "transcription" in heard.model_fields_set else self.drafts,
            hears=self.hears if heard.format is None else FORMATS[heard.format.type],
            speaks=self.speaks if said.format is None else FORMATS[said.format.type],
            max_tokens=_tokens(changes.max_output_tokens) if "max_output_tokens" in given else self.max_tokens,
            **self._tools(changes),
        )
        return chosen, notices[:MAX_NOTICES]

    def for_answer(self, options: types.ResponseOptions) -> Settings:
        """As one answer is wished for. Raises: ApiError: there is no such voice or style."""
        said = (options.audio or types.Audio()).output or types.AudioOut()
        check_style(self.styles, options.emotion, options.pitch)
        return replace(
            self,
            emotion=options.emotion or self.emotion,
            pitch=options.pitch or self.pitch,
            instructions=self.instructions if options.instructions is None else options.instructions,
            modalities=tuple(options.output_modalities or self.modalities),
            voice=self.voice if said.voice is None else chosen_voice(self.styles, said.voice),
            speaks=self.speaks if said.format is None else FORMATS[said.format.type],
            max_tokens=self.max_tokens if options.max_output_tokens is None else _tokens(options.max_output_tokens),
            **self._tools(options),
        )

    def _tools(self, wished: types.SessionChanges | types.ResponseOptions) -> _Tools:
        """The tools that are wished for. Raises: InputError: one is malformed, or cannot be kept."""
        tools = self.tools if wished.tools is None else tuple(wished.tools)
        choice = self.tool_choice if wished.tool_choice is None else wished.tool_choice
        parallel = self.parallel if wished.parallel_tool_calls is None else wished.parallel_tool_calls
        # Many clients choose first and send their tools later.
        toolbox = Toolbox.from_openai(tools, choice, parallel) if tools else None
        return {"tools": tools, "tool_choice": choice, "parallel": parallel, "toolbox": toolbox}

    def told(self, instructions: str) -> str:
        """The system message: instructions, and the tools."""
        return instructions if self.toolbox is None else self.toolbox.instructions(instructions)

    @property
    def spoken(self) -> bool:
        """Whether answers are to be heard."""
        return "audio" in self.modalities

    def limits(self, usual: ReplyLimits, words_end: WordsEnd) -> ReplyLimits:
        """Those of an answer in a format with such an end of its words."""
        limits = usual
        if self.max_tokens is not None:
            limits = usual.within(max(self.max_tokens, usual.least))
        if self.spoken or words_end == "reply":  # there the units carry the words: the text ends with them
            return limits
        return replace(limits, max_units=1)  # a reply has at least one

    def shown(self, model: str) -> JsonObject:
        """As OpenAI's session object."""
        drafts = {"drafts": True} if self.drafts else {}
        transcription = {"model": self.transcription, **drafts} if self.transcription else None
        return {
            "type": "realtime",
            "object": "realtime.session",
            "model": model,
            "instructions": self.instructions,
            "output_modalities": list(self.modalities),
            "audio": {
                "input": {
                    "format": shown_format(self.hears),
                    "turn_detection": None if self.turns is None else self.turns.shown(),
                    "transcription": transcription,
                },
                "output": {"format": shown_format(self.speaks), "voice": self.voice, "speed": 1.0},
            },
            "max_output_tokens": self.max_tokens or "inf",
            "tools": list(self.tools),
            "tool_choice": self.tool_choice,
            "emotion": self.emotion,
            "pitch": self.pitch,
        }


def shown_format(wire: WireFormat) -> JsonObject:
    """As OpenAI's object."""
    return {"type": wire.name, "rate": wire.rate} if wire is PCM else {"type": wire.name}


def chosen_voice(styles: StyleSet, wanted: str | types.VoiceId) -> str:
    """Our voice for a client's. Raises: ApiError: there is no such voice."""
    return find_voice(styles, wanted if isinstance(wanted, str) else wanted.id)


def _tokens(wanted: int | str | None) -> int | None:
    return wanted if isinstance(wanted, int) else None


def _without_effect(changes: BaseModel, place: str = "") -> list[str]:
    """Names of fields that are not known here, and that ask for something."""
    notices = []
    for name, value in (changes.model_extra or {}).items():
        if value is None or value in _ASKS_NOTHING.get(name, ()) or (not place and name in _SILENT):
            continue
        known = name if len(name) < 40 and name.isidentifier() else "a field"
        notices.append(f"{place}{known}: has no effect here")
    for name in changes.model_fields_set:
        inner = getattr(changes, name)
        if isinstance(inner, types.Audio | types.AudioIn | types.AudioOut):
            notices += _without_effect(inner, f"{place}{name}.")
    return notices
