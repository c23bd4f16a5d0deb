"""Voices behind one protocol: hibari, Kokoro and piper offline; CosyVoice and Azure by their HTTP interfaces.

``speakers.yaml`` names 39 speakers (EMOVA §4.2) with their gender and what each back end calls them.
"""

from __future__ import annotations

import functools
import io
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import yaml

from emova.core.errors import InputError
from emova_data.records.records import BadRecord


@dataclass(frozen=True)
class Speaker:
    """A named speaker and its names at the back ends."""

    name: str
    gender: str
    hibari: str
    kokoro: str
    kokoro_zh: str
    azure_en: str
    azure_zh: str


class Speech(Protocol):
    """A back end: [T] float32 samples and their rate in Hz."""

    languages: tuple[str, ...]

    def speak(
        self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int
    ) -> tuple[np.ndarray, int]:
        """Raises: BadRecord: this text could not be spoken; InputError: the back end is not usable at all."""


@functools.lru_cache(maxsize=1)
def speakers() -> tuple[Speaker, ...]:
    """The 39 speakers."""
    raw = yaml.safe_load((Path(__file__).parent / "speakers.yaml").read_text(encoding="utf-8"))
    return tuple(Speaker(name, *fields) for name, fields in raw.items())


def at_rate(samples: np.ndarray, found: int, rate: int) -> np.ndarray:
    """What a back end spoke, [T] at ``found`` Hz, at ``rate``. Raises: BadRecord: there is nothing to be heard."""
    import soxr

    if found != rate:
        samples = soxr.resample(samples, found, rate)
    if not len(samples) or not np.isfinite(samples).all() or np.abs(samples).max() < 1e-4:
        raise BadRecord("the voice could not speak it")
    return samples


class LocalSpeech:
    """hibari, kokoro or piper, from what `emova data fetch nano` fetched.

    kokoro speaks Mandarin too, and there it has emotions and pitches, as hibari's voices have; the others have none.

    Args:
        family: hibari, kokoro or piper (one voice for all speakers).
        sources: the folder ``data/nano/sources``.
    """

    def __init__(self, family: str, sources: Path) -> None:
        from emova_data.nano.voices.voices import Voices

        self.family, self.voices = family, Voices(sources)
        self.languages: tuple[str, ...] = ("en", "zh") if family == "kokoro" else ("en",)

    def speak(
        self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int
    ) -> tuple[np.ndarray, int]:
        kokoro = speaker.kokoro_zh if language == "zh" else speaker.kokoro
        name = {"hibari": speaker.hibari, "kokoro": kokoro, "piper": "joe"}[self.family]
        try:
            made = self.voices.speak(f"{self.family}/{name}", words, emotion, pitch, seed)
        except (ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise BadRecord("the voice could not speak it") from None
        return made.samples, made.sample_rate


def _post(address: str, body: bytes, headers: dict[str, str], timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=timeout) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise InputError(f"the speech endpoint answers {error.code}; check speech.* and the key") from None
        raise BadRecord("the voice could not speak it") from None
    except OSError:
        raise BadRecord("the speech endpoint cannot be reached") from None


class CosyVoiceSpeech:
    """CosyVoice's own FastAPI server, ``/inference_instruct``: raw 16-bit samples. The style is told in words."""

    languages: tuple[str, ...] = ("en", "zh")

    def __init__(self, address: str, sample_rate: int = 22050, timeout: float = 120.0) -> None:
        self.address, self.sample_rate, self.timeout = address.rstrip("/"), sample_rate, timeout

    def speak(
        self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int
    ) -> tuple[np.ndarray, int]:
        voice = {("female", "en"): "英文女", ("male", "en"): "英文男", ("female", "zh"): "中文女"}.get(
            (speaker.gender, language), "中文男"
        )
        manner = f"A {speaker.gender} speaker with a {emotion} tone and {pitch} pitch."
        form = urllib.parse.urlencode({"tts_text": words, "spk_id": voice, "instruct_text": manner}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        content = _post(f"{self.address}/inference_instruct", form, headers, self.timeout)
        if len(content) < 2 or len(content) % 2:
            raise BadRecord("the voice could not speak it")
        return np.frombuffer(content, "<i2").astype(np.float32) / 32768.0, self.sample_rate


class AzureSpeech:
    """Azure AI Speech: SSML with a speaking style and a pitch.

    Args:
        address: the region's endpoint, ending in ``/cognitiveservices/v1``.
        key_variable: environment variable that holds the key.
    """

    languages: tuple[str, ...] = ("en", "zh")
    _STYLES = {"happy": "cheerful", "sad": "sad", "angry": "angry"}
    _PITCHES = {"low": "-12%", "high": "+12%"}

    def __init__(self, address: str, key_variable: str = "AZURE_SPEECH_KEY", timeout: float = 60.0) -> None:
        self.address, self.key_variable, self.timeout = address, key_variable, timeout

    def ssml(self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str) -> str:
        """The request's document; the words are escaped."""
        voice, locale = (speaker.azure_zh, "zh-CN") if language == "zh" else (speaker.azure_en, "en-US")
        said = escape(words)
        if pitch in self._PITCHES:
            said = f'<prosody pitch="{self._PITCHES[pitch]}">{said}</prosody>'
        if emotion in self._STYLES:
            said = f'<mstts:express-as style="{self._STYLES[emotion]}">{said}</mstts:express-as>'
        spaces = 'xmlns="http://www.w3.org/2001/10/synthesis" xmlns:mstts="https://www.w3.org/2001/mstts"'
        return (
            f'<speak version="1.0" {spaces} xml:lang="{locale}"><voice name={quoteattr(voice)}>{said}</voice></speak>'
        )

    def speak(
        self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int
    ) -> tuple[np.ndarray, int]:
        import soundfile

        headers = {
            "Content-Type": "application/ssml+xml",
            "X-Microsoft-OutputFormat": "riff-24khz-16bit-mono-pcm",
            "Ocp-Apim-Subscription-Key": os.environ.get(self.key_variable, ""),
            "User-Agent": "emova",
        }
        body = self.ssml(words, speaker, emotion, pitch, language).encode()
        try:
            samples, rate = soundfile.read(
                io.BytesIO(_post(self.address, body, headers, self.timeout)), dtype="float32"
            )
        except soundfile.LibsndfileError:
            raise BadRecord("the voice could not speak it") from None
        return samples, rate


def backend(name: str, *, sources: Path, address: str = "") -> Speech:
    """The back end ``name``. Raises: InputError: unknown, or without the address that it needs."""
    if name in ("hibari", "kokoro", "piper"):
        return LocalSpeech(name, sources)
    if name in ("cosyvoice", "azure"):
        if not re.match(r"https?://", address):
            raise InputError(f"speech.backend {name} needs speech.address")
        return CosyVoiceSpeech(address) if name == "cosyvoice" else AzureSpeech(address)
    raise InputError(f"speech.backend {name[:30]!r} is unknown; choose hibari, kokoro, piper, cosyvoice or azure")
