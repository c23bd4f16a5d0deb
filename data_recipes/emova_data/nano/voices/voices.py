"""All the voices of the recipe behind one call: ``speak(voice, text, emotion, pitch, seed) -> Utterance``.

Families: ``hibari`` (the two canonical voices, and pseudo-voices made by rule), ``kokoro``, ``flite`` for training;
``piper`` and ``festival`` are held out: nothing may train on them.

A voice is named by a string, which goes into every record: ``hibari/female``, ``hibari/male``, ``hibari/p07``,
``kokoro/am_adam``, ``kokoro/af_bella+bf_emma`` (a voice between two), ``kokoro/zf_xiaobei`` (Mandarin), ``flite/slt``,
``piper/joe``, ``festival/kal_diphone``.
"""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emova.core.errors import InputError
from emova.core.seeding import generator
from emova_data.nano.text.g2p import phonemes, phones
from emova_data.nano.voices.hibari_voice import FEMALE, MALE, Utterance, VoiceSettings, active_rms, limit, render
from emova_data.nano.voices.styles import Rendering, rendering

if TYPE_CHECKING:
    import onnxruntime
    from piper import PiperVoice

TRAIN_FAMILIES = ("hibari", "kokoro", "flite")
HELD_OUT_FAMILIES = ("piper", "festival")
PSEUDO_VOICES = 32
FLITE_VOICES = {"slt": "female", "rms": "male", "awb": "male", "kal16": "male"}
FESTIVAL_VOICES = {"kal_diphone": "male", "ked_diphone": "male", "cmu_us_slt_arctic_hts": "female"}
KOKORO_VOICES = (
    "af_alloy", "af_bella", "af_jessica", "af_nova", "af_river", "af_sarah", "am_adam", "am_echo", "am_eric", "am_liam",
    "am_michael", "am_onyx", "am_puck", "bf_emma", "bm_george",
)  # fmt: skip
KOKORO_ALL = (
    *KOKORO_VOICES, "af_aoede", "af_heart", "af_kore", "af_nicole", "af_sky", "am_fenrir", "am_santa", "bf_alice",
    "bf_isabella", "bf_lily", "bm_daniel", "bm_fable", "bm_lewis",
)  # fmt: skip
KOKORO_MANDARIN = (
    "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang",
)  # fmt: skip
_LEVEL = 0.05


@functools.lru_cache(maxsize=256)
def pseudo_voice(index: int) -> VoiceSettings:
    """The settings of pseudo-voice ``index``: vocal tract, F0, F0 range, tilt, breath and tempo drawn at random.

    F0 and vocal tract length go together, as between men, women and children (Fitch & Giedd 1999), with a spread.
    """
    rng = generator("pseudo-voice", index)
    size = rng.uniform(0.0, 1.0)
    return VoiceSettings(
        f0=float(0.50 + 0.72 * size + rng.normal(0, 0.05)),
        formant=float(np.clip(0.80 + 0.32 * size + rng.normal(0, 0.02), 0.78, 1.14)),
        speed=float(rng.uniform(0.85, 1.2)),
        rendering=Rendering(
            f0_range=float(rng.uniform(0.5, 1.5)),
            tilt_db=float(rng.uniform(-2.0, 2.0)),
            effort=float(rng.uniform(-0.5, 0.7)),
            breath_db=float(rng.uniform(-3.0, 8.0)),
            jitter=float(rng.uniform(0.0, 0.012)),
        ),
    )


def family_of(voice: str) -> str:
    return voice.split("/", 1)[0]


def gender_of(voice: str) -> str:
    """``female`` or ``male``; of a pseudo-voice by its F0."""
    family, name = voice.split("/", 1)
    if family == "hibari":
        if name in ("female", "male"):
            return name
        return "female" if pseudo_voice(int(name[1:])).f0 > 0.82 else "male"
    if family == "kokoro":
        return "female" if name[1] == "f" else "male"
    return {**FLITE_VOICES, **FESTIVAL_VOICES, "joe": "male"}[name]


def _settings(name: str) -> VoiceSettings:
    """hibari's settings for the voice ``hibari/NAME``."""
    return {"female": FEMALE, "male": MALE}.get(name) or pseudo_voice(int(name[1:]))


def is_mandarin(voice: str) -> bool:
    """Whether ``voice`` speaks Mandarin."""
    family, _, name = voice.partition("/")
    return family == "kokoro" and name.startswith("z")


def recipe_of(voice: str, emotion: str, pitch: str) -> str:
    """Everything that determines how a voice renders a style, for the digest of a shard's plan."""
    family, _, name = voice.partition("/")
    if is_mandarin(voice):
        return repr(_style_of(emotion, pitch))
    return repr((_settings(name), rendering(emotion, pitch))) if family == "hibari" else ""


def _style_of(emotion: str, pitch: str) -> Rendering:
    """Of a voice that is restyled: plain stays as it was spoken, with its own range."""
    return Rendering() if (emotion, pitch) == ("neutral", "normal") else rendering(emotion, pitch)


def _level(samples: np.ndarray) -> np.ndarray:
    return limit(samples * (_LEVEL / active_rms(samples)))


class Voices:
    """Speaks with any voice; models are loaded when first used.

    Args:
        sources: the folder that ``sources.fetch`` filled.
    """

    def __init__(self, sources: Path) -> None:
        self.sources = sources

    def speak(self, voice: str, text: str, emotion: str = "neutral", pitch: str = "normal", seed: int = 0) -> Utterance:
        """One utterance at the voice's own rate. Emotion and pitch are for hibari's voices and Mandarin ones; others
        ignore them.

        Raises:
            InputError: the voice is unknown or its program fails.
        """
        family, _, name = voice.partition("/")
        rng = generator("noise", voice, text, emotion, pitch, seed)
        if family == "hibari":
            return render(text, _settings(name), rendering(emotion, pitch), rng)
        maker = {"kokoro": self._kokoro_speak, "flite": _flite, "festival": _festival, "piper": self._piper_speak}
        if family not in maker:
            raise InputError(f"voice {voice!r} is unknown; families are {', '.join(('hibari', *maker))}")
        samples, rate = maker[family](name, text)
        if is_mandarin(voice):
            from emova_data.mandarin import g2p
            from emova_data.nano.voices.restyle import restyle

            samples = restyle(_level(samples), rate, _style_of(emotion, pitch), rng)
            return Utterance(samples, rate, g2p.phones(text), None)
        return Utterance(_level(samples), rate, phones(text), None)

    @functools.cached_property
    def _kokoro(self) -> tuple[onnxruntime.InferenceSession, dict[str, int]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = self.sources / "kokoro" / "kokoro.onnx"
        if not path.is_file():
            raise InputError(f"{path}: missing; run `emova data fetch nano`")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        vocabulary = json.loads((self.sources / "kokoro" / "vocab.json").read_text(encoding="utf-8"))
        return session, vocabulary.get("vocab", vocabulary)

    def _kokoro_speak(self, name: str, text: str) -> tuple[np.ndarray, int]:
        if name.startswith("z"):
            from emova_data.mandarin.symbols import symbols

            return self.kokoro_speak_symbols(name, symbols(text))
        return self.kokoro_speak_symbols(name, phonemes(text))

    def kokoro_speak_symbols(self, name: str, symbols: str) -> tuple[np.ndarray, int]:
        """Kokoro's own symbols, of any of its languages, spoken by the voice ``name``: ``[T]`` float32 and their rate.

        Raises:
            InputError: Kokoro was not fetched.
        """
        session, vocabulary = self._kokoro
        ids = [vocabulary[symbol] for symbol in symbols if symbol in vocabulary]
        folder = self.sources / "kokoro" / "voices"
        between = [np.fromfile(folder / f"{one}.bin", np.float32).reshape(-1, 256) for one in name.split("+")]
        rows = np.mean(between, axis=0)
        feed = {
            "tokens": np.asarray([[0, *ids, 0]], np.int64),
            "style": rows[min(len(ids), len(rows) - 1)][None],
            "speed": np.asarray([1.0], np.float32),
        }
        return session.run(None, feed)[0].reshape(-1).astype(np.float32), 24000

    @functools.cached_property
    def _piper(self) -> PiperVoice:
        from piper import PiperVoice

        path = self.sources / "piper" / "en_US-joe-medium.onnx"
        if not path.is_file():
            raise InputError(f"{path}: missing; run `emova data fetch nano`")
        return PiperVoice.load(str(path))

    def _piper_speak(self, name: str, text: str) -> tuple[np.ndarray, int]:
        chunks = list(self._piper.synthesize(text))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate


def _flite(name: str, text: str) -> tuple[np.ndarray, int]:
    return _program(lambda out: ["flite", "-voice", name, "-t", text, "-o", out], None)


def _festival(name: str, text: str) -> tuple[np.ndarray, int]:
    return _program(lambda out: ["text2wave", "-eval", f"(voice_{name})", "-o", out], text)


def _program(command: Callable[[str], list[str]], text: str | None) -> tuple[np.ndarray, int]:
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "speech.wav")
        arguments = command(out)
        try:
            result = subprocess.run(
                arguments, input=None if text is None else text.encode(), capture_output=True, timeout=60, check=False
            )
        except FileNotFoundError:
            raise InputError(f"{arguments[0]} is not installed; see `emova data list`") from None
        if result.returncode != 0 or not Path(out).is_file():
            raise InputError(f"{arguments[0]}: the voice {arguments[2]} could not speak; see `emova data list`")
        samples, rate = soundfile.read(out, dtype="float32")
    return samples, rate
