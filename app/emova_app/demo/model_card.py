"""What the page says of the model in use: its name, its size, and the sentence of its own card."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch.nn import Module

from emova.assistant import Assistant
from emova.checkpoint.loading import find_checkpoint
from emova.core.errors import InputError
from emova.vision.none import KIND as NO_EYES

UNKNOWN = "Its card does not say what it can do"


def about(assistant: Assistant) -> str:
    """One sentence, as text."""
    name = assistant.parts.name
    parts = (assistant.parts.model, assistant.parts.speech_tokenizer, assistant.voice.detokenizer)
    weights = sum(parameter.numel() for part in parts if isinstance(part, Module) for parameter in part.parameters())
    return f"You talk with {Path(name).name}, {weights / 1e6:,.0f} million weights. {_said_by_card(name)}."


def sees(assistant: Assistant) -> bool:
    """Whether it takes pictures."""
    return assistant.parts.model.config.vision.kind != NO_EYES


def languages(assistant: Assistant) -> str:
    """The language in which it answers, as HTML names it; nothing if its card names none or several."""
    value = _front_matter(assistant.parts.name).get("language")
    return value if isinstance(value, str) else ""


def _said_by_card(name: str) -> str:
    said = _front_matter(name).get("short_description")
    return said.strip().rstrip(".") if isinstance(said, str) and said.strip() else UNKNOWN


def _front_matter(name: str) -> dict[str, object]:
    """The head of the checkpoint's README.md, as the hubs write it; empty if there is none."""
    try:
        text = (find_checkpoint(name) / "README.md").read_text(encoding="utf-8")
    except (InputError, OSError, ValueError):
        return {}
    if not text.startswith("---\n"):
        return {}
    try:
        head = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}
