"""Converters: from a source's own files to drafts of records. ``CONVERTERS`` names them for the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from emova_data.records.records import Draft
from emova_data.sources.converters import conversations, folders, messages, speech, texts

Converter = Callable[[Path, Mapping[str, object]], Iterator[Draft]]
"""From a source's folder and the registry's options to drafts, always in the same order."""

CONVERTERS: dict[str, Converter] = {
    "llava": conversations.llava,
    "cauldron": conversations.cauldron,
    "synthdog": conversations.synthdog,
    "pairs": conversations.pairs,
    "magpie": conversations.magpie,
    "librispeech": speech.librispeech,
    "libritts": speech.libritts,
    "aishell": speech.aishell,
    "aishell2": speech.aishell2,
    "gigaspeech": speech.gigaspeech,
    "wenetspeech": speech.wenetspeech,
}

FORMATS: dict[str, Converter] = {
    "llava": conversations.llava,
    "messages": messages.messages,
    "speech": folders.transcribed,
    "recordings": folders.recordings,
    "text": texts.texts,
}
"""What a folder of one's own may hold (``emova data convert --format``)."""
