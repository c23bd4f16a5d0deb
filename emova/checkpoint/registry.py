"""The sockets of a checkpoint and the classes that fit them, by kind: a checkpoint names its kinds, this finds them.

A class joins by ``register``, or by an entry point of its package in the group ``emova.parts`` whose name is
``SOCKET.KIND`` and whose value is ``module:Class``; ``docs/extend.md`` shows both. A checkpoint can only choose among
what is registered: no name in it is ever imported.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, Literal, TypeVar

from emova.core.device import find_device
from emova.core.errors import InputError
from emova.reply.format import ReplyFormat
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.style import StyleSet
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.vision.protocol import Projector, VisionTower

GROUP = "emova.parts"
Socket = Literal["speech_tokenizer", "speech_detokenizer", "reply_format", "vision_tower", "projector"]
Part = TypeVar("Part")
PartClass = TypeVar("PartClass", bound=type)


class Registry(Generic[Part]):
    """The classes of one socket.

    Args:
        socket: its name.
        title: how errors call its kinds.
        built_in: emova's own kinds, as ``module:Class``; a class is imported when it is first needed.
        renamed: kinds as earlier versions called them, and what they are called now.
    """

    def __init__(
        self, socket: Socket, title: str, built_in: Mapping[str, str], renamed: Mapping[str, str] = {}
    ) -> None:
        self.socket, self.title = socket, title
        self.built_in, self._renamed = built_in, renamed
        self._classes: dict[str, type[Part]] = {}

    def kinds(self) -> list[str]:
        """All that are known, from outside too."""
        return sorted({*self.built_in, *self._classes, *self._entries()})

    def add(self, kind: str, part: type[Part]) -> None:
        """Let checkpoints name ``part`` by ``kind``.

        Raises:
            ValueError: the kind is taken by another class.
        """
        taken = kind in self.built_in or kind in self._renamed or self._classes.get(kind, part) is not part
        if taken or not kind.isidentifier():
            reason = "is taken" if taken else "is no identifier"
            raise ValueError(f"{self.socket} {kind!r} {reason}; choose another name")
        self._classes[kind] = part

    def name(self, kind: str) -> str:
        """What a kind is called now."""
        return self._renamed.get(kind, kind)

    def find(self, kind: str) -> type[Part]:
        """The class of a kind. Raises: InputError: there is none, or its package cannot be imported."""
        name = self.name(kind) if isinstance(kind, str) else ""
        if name in self._classes:
            return self._classes[name]
        if name in self.built_in:
            module, _, class_name = self.built_in[name].partition(":")
            self._classes[name] = getattr(importlib.import_module(module), class_name)
            return self._classes[name]
        entry = self._entries().get(name)
        if entry is None:
            raise InputError(f"{self.title} {str(kind)[:40]!r} is unknown; there are {', '.join(self.kinds())}")
        try:
            self._classes[name] = entry.load()
        except (ImportError, AttributeError):
            raise InputError(
                f"{self.title} {name!r}: the package that brings it cannot be imported; install it again"
            ) from None
        return self._classes[name]

    def _entries(self) -> dict[str, EntryPoint]:
        start = f"{self.socket}."
        found = entry_points(group=GROUP)
        return {entry.name.removeprefix(start): entry for entry in found if entry.name.startswith(start)}


TOKENIZERS: Registry[SpeechTokenizer] = Registry(
    "speech_tokenizer",
    "speech tokenizer kind",
    {
        "s2u": "emova.speech.tokenizer.s2u:S2UTokenizer",
        "kmeans": "emova.speech.tokenizer.kmeans:KMeansTokenizer",
        "emova_s2u": "emova.speech.tokenizer.emova_s2u.tokenizer:EmovaS2UTokenizer",
        "whisper_vq": "emova.speech.tokenizer.whisper_vq.tokenizer:WhisperVQTokenizer",
    },
)
DETOKENIZERS: Registry[SpeechDetokenizer] = Registry(
    "speech_detokenizer",
    "speech detokenizer kind",
    {
        "u2s": "emova.speech.detokenizer.u2s:U2SDetokenizer",
        "emova_u2s": "emova.speech.detokenizer.emova_u2s.detokenizer:EmovaU2SDetokenizer",
        "flow_hift": "emova.speech.detokenizer.flow_hift.detokenizer:FlowHiFTDetokenizer",
    },
)
REPLY_FORMATS: Registry[ReplyFormat] = Registry(
    "reply_format",
    "reply format",
    {
        "json": "emova.reply.json:JsonReply",
        "interleaved": "emova.reply.interleaved:InterleavedReply",
        "emova_release": "emova.reply.released:ReleasedReply",
        "glm_4_voice": "emova.reply.glm_voice:GLMVoiceReply",
    },
    renamed={"thoughts": "interleaved"},
)
TOWERS: Registry[VisionTower] = Registry(
    "vision_tower",
    "vision kind",
    {
        "internvit": "emova.vision.internvit:InternViT",
        "open_clip": "emova.vision.open_clip:OpenClipTower",
        "qwen2_vit": "emova.vision.qwen2_vit:Qwen2ViT",
        "none": "emova.vision.none:NoTower",
    },
)
PROJECTORS: Registry[Projector] = Registry(
    "projector",
    "projector kind",
    {
        "c_abstractor": "emova.vision.c_abstractor:CAbstractor",
        "mlp": "emova.vision.mlp:MLPProjector",
        "none": "emova.vision.none:NoProjector",
    },
)

REGISTRIES = (TOKENIZERS, DETOKENIZERS, REPLY_FORMATS, TOWERS, PROJECTORS)


def register(socket: Socket, kind: str) -> Callable[[PartClass], PartClass]:
    """A decorator that lets checkpoints name a class: ``@register("projector", "linear")``.

    Raises:
        ValueError: there is no such socket, or the kind is taken by another class.
    """
    registry = next((each for each in REGISTRIES if each.socket == socket), None)
    if registry is None:
        raise ValueError(f"there is no socket {socket!r}; there are {', '.join(each.socket for each in REGISTRIES)}")

    def join(part: PartClass) -> PartClass:
        registry.add(kind, part)
        return part

    return join


def load_tokenizer(folder: str | Path, device: str = "cpu") -> SpeechTokenizer:
    """The speech tokenizer in ``folder``, of the kind that its ``config.json`` names, ready for inference.

    Raises:
        InputError: a file is missing or damaged, or the kind is unknown; there is no such device.
    """
    place = find_device(device)
    return TOKENIZERS.find(_kind(folder, "s2u")).from_pretrained(folder).to(str(place))


def load_detokenizer(folder: str | Path, device: str = "cpu") -> SpeechDetokenizer:
    """The speech detokenizer in ``folder``, of the kind that its ``config.json`` names, ready for inference.

    Raises:
        InputError: a file is missing or damaged, or the kind is unknown; there is no such device.
    """
    place = find_device(device)
    return DETOKENIZERS.find(_kind(folder, "u2s")).from_pretrained(folder).to(str(place))


def build_reply_format(kind: str, options: Mapping[str, object], styles: StyleSet) -> ReplyFormat:
    """A reply format of a kind. Raises: InputError: the kind or an option is unknown."""
    return REPLY_FORMATS.find(kind).from_options(options, styles)


def _kind(folder: str | Path, default: str) -> str:
    """What ``config.json`` says; the default if nothing, or if it cannot be read, which the class itself will tell."""
    try:
        return str(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("kind", default))
    except (OSError, ValueError, AttributeError):
        return default
