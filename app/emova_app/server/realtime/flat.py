"""The flat fields of OpenAI's beta protocol, as today's nested ones: they work, or the error names them."""

from __future__ import annotations

from collections.abc import Sequence

from emova_app.server.errors import ApiError
from emova_app.server.json_types import JsonObject

Path = tuple[str, ...]
_SAME: dict[str, Path] = {
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "max_response_output_tokens": ("max_output_tokens",),
}
_FORMATS: dict[str, Path] = {
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
}
_MODALITIES: dict[str, Path] = {"modalities": ("output_modalities",)}
NAMES = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


def nested(fields: JsonObject, what: str) -> tuple[JsonObject, dict[Path, str]]:
    """``fields`` with the flat ones where they are today, and what each place was called.

    What stands in both places is taken from today's.

    Args:
        what: whose fields they are, for the error.

    Raises:
        ApiError: a flat field has a value that it cannot have.
    """
    given = {name: value for name, value in fields.items() if name not in _SAME | _FORMATS | _MODALITIES}
    called: dict[Path, str] = {}
    for name, path in (_SAME | _FORMATS | _MODALITIES).items():
        if name not in fields or (fields[name] is None and name in _FORMATS | _MODALITIES):
            continue
        value = fields[name]
        if name in _FORMATS:
            value = {"type": _format(value, f"{what}.{name}")}
        elif name in _MODALITIES:
            value = _modalities(value, f"{what}.{name}")
        if _put(given, path, value):
            called[path] = name
    return given, called


def told_name(place: Sequence[str], called: dict[Path, str]) -> str:
    """The name by which the client knows a place."""
    for path, name in called.items():
        if tuple(place[: len(path)]) == path:
            return ".".join((name, *place[len(path) :]))
    return ".".join(place)


def _put(fields: JsonObject, path: Path, value: object) -> bool:
    """Set what is not set; whether it was not."""
    *parents, last = path
    for parent in parents:
        inner = fields.get(parent)
        if inner is None:
            inner = {}
        elif not isinstance(inner, dict):
            return False  # whatever it is, it is refused by its own name
        fields[parent] = fields = dict(inner)
    if last in fields:
        return False
    fields[last] = value
    return True


def _format(value: object, name: str) -> str:
    found = NAMES.get(value) if isinstance(value, str) else None
    if found is None:
        raise _wrong(name, f"choose one of {', '.join(NAMES)}")
    return found


def _modalities(value: object, name: str) -> list[str]:
    # Speech always has its text, so both together are what is called audio today.
    if not isinstance(value, list) or not value or not all(each in ("text", "audio") for each in value):
        raise _wrong(name, 'choose ["text"], ["audio"] or ["audio", "text"]')
    return ["audio" if "audio" in value else "text"]


def _wrong(name: str, message: str) -> ApiError:
    return ApiError(400, f"{name}: not a value that it can have; {message}", param=name, code="invalid_value")
