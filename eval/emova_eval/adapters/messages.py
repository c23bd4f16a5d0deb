"""Other toolkits' messages as emova's content parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from emova.core.errors import InputError


class Listens(Protocol):
    """What is used of an ``Assistant``."""

    def listen(self, audio: Any, /) -> Sequence[int]:
        """The units of what ``Assistant.listen`` takes."""
        ...


def to_content(parts: str | Sequence[Mapping[str, object]], assistant: Listens) -> list[dict[str, object]]:
    """Content parts of lmms-eval (``type`` and ``url`` or ``text``) or VLMEvalKit (``type`` and ``value``).

    Pictures and audio may be paths or decoded objects; addresses in the net are never followed.

    Raises:
        InputError: a part is of a kind that the model does not take.
    """
    from emova.vision.image import load_image

    if isinstance(parts, str):
        return [{"type": "text", "text": parts}]
    content: list[dict[str, object]] = []
    for part in parts:
        kind = str(part.get("type"))
        value = next((part[key] for key in ("url", "value", kind) if part.get(key) is not None), None)
        if isinstance(value, str) and value.startswith(("http://", "https://")) and kind != "text":
            raise InputError("a message names an address in the net; give the file itself")
        if kind == "text":
            content.append({"type": "text", "text": str(part.get("text", value) or "")})
        elif kind == "image":
            content.append({"type": "image", "image": load_image(value)})  # type: ignore[arg-type]
        elif kind == "audio":
            content.append({"type": "audio", "units": assistant.listen(_samples(value))})
        else:
            raise InputError(f"a message has a part of kind {kind[:20]!r}; text, image and audio can be taken")
    return content


def with_plain_audio(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's row with its sound as dictionaries that say so.

    What lmms-eval 0.7 makes messages of knows sound by ``type`` alone: decoders of torchcodec it refuses, and decoded
    dictionaries it calls films.
    """
    row = {}
    for name, value in doc.items():
        if hasattr(value, "get_all_samples"):
            found = value.get_all_samples()
            value = {"array": found.data, "sampling_rate": found.sample_rate}
        if isinstance(value, dict) and "array" in value and "sampling_rate" in value:
            value = {"type": "audio", "array": value["array"], "sampling_rate": value["sampling_rate"]}
        row[name] = value
    return row


def _samples(value: Any) -> Any:
    """What ``Assistant.listen`` takes: samples at 16 kHz out of decoded audio with its rate, else a path or bytes.

    Hugging Face datasets hand over audio as a dictionary, decoded or as bytes, or as torchcodec's decoder; tasks of
    lmms-eval (voicebench, fleurs, open_asr, omni_bench) pass either on.
    """
    if hasattr(value, "get_all_samples"):
        found = value.get_all_samples()
        value = {"array": found.data, "sampling_rate": found.sample_rate}
    if not isinstance(value, dict):
        return value
    if "array" not in value:
        return value.get("bytes") or value.get("path")
    import numpy as np
    import soxr

    mono = np.asarray(value["array"], np.float32)
    if mono.ndim > 1:  # channels first or last; there are fewer of them than samples
        mono = mono.mean(int(np.argmin(mono.shape)))
    return np.asarray(soxr.resample(mono, value["sampling_rate"], 16000), np.float32)


def cut_at(text: str, stops: str | list[str] | None) -> str:
    """``text`` up to the first of the stop words."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.split(stop)[0]
    return text.strip()
