"""The reply formats by name: a model that was trained on several writes the one that it is asked for."""

from __future__ import annotations

from emova.errors import InputError
from emova.reply import JsonReply, ReplyFormat
from emova.thoughts import StreamingThoughts

FORMATS = ("json", "thoughts")


def make_reply_format(name: str) -> ReplyFormat:
    """``json``: the chain of modality; ``thoughts``: text and speech in turns. Raises: InputError."""
    if name == "json":
        return JsonReply()
    if name == "thoughts":
        return StreamingThoughts()
    raise InputError(f"the reply format {name[:40]!r} is unknown; it is one of {', '.join(FORMATS)}")
