"""The reply formats by name: a model that was trained on several writes the one that it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from emova.core.errors import InputError
from emova.reply.interleaved import Ratio, StreamingThoughts
from emova.reply.json import JsonReply, ReplyFormat

FORMATS = ("json", "thoughts")


def make_reply_format(name: str, thoughts_ratio: Sequence[int] | None = None) -> ReplyFormat:
    """``json``: the chain of modality; ``thoughts``: text and speech in turns.

    Args:
        thoughts_ratio: tokens of text and units that the model was taught; the default's if None.

    Raises:
        InputError: there is no such format, or the ratio is none.
    """
    if name == "json":
        return JsonReply()
    if name == "thoughts":
        return StreamingThoughts(Ratio(*thoughts_ratio) if thoughts_ratio else Ratio())
    raise InputError(f"the reply format {name[:40]!r} is unknown; it is one of {', '.join(FORMATS)}")
