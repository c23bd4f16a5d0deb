"""emova: an assistant that sees, hears, and answers in text and in a voice with emotion.

The public names are imported when they are first used, so ``import emova`` itself costs nothing. From then on
transformers' Auto classes and pipelines know a checkpoint of emova's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from emova.core.auto_classes import introduce
from emova.core.startup import collector_paused

if TYPE_CHECKING:
    from emova.assistant import Assistant
    from emova.checkpoint.loading import find_checkpoint
    from emova.conversation import Conversation
    from emova.events import Reply
    from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaProcessor

__version__ = "0.1.0"

_HOMES = {
    "Assistant": "emova.assistant",
    "Conversation": "emova.conversation",
    "Reply": "emova.events",
    "EmovaConfig": "emova.model",
    "EmovaForConditionalGeneration": "emova.model",
    "EmovaProcessor": "emova.model",
    "find_checkpoint": "emova.checkpoint.loading",
}

__all__ = [
    "Assistant",
    "Conversation",
    "EmovaConfig",
    "EmovaForConditionalGeneration",
    "EmovaProcessor",
    "Reply",
    "__version__",
    "find_checkpoint",
]

introduce()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'emova' has no attribute {name!r}")
    with collector_paused():
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
