"""A voice made from a recording, with the emotions of the shipped styles.

EMOVA's style encoder gives one vector for a recording (§3.2). The prototypes tell how each emotion and pitch lies from
neutral; those offsets, laid on the recording's vector, are kept as far as they carry over to another voice.

Shape letters: T samples, S style channels.
"""

from __future__ import annotations

import numpy as np
import torch

from emova.core.errors import InputError
from emova.speech.audio import is_silent
from emova.speech.detokenizer.u2s import U2SDetokenizer
from emova.speech.detokenizer.vits import LOG_F0_CENTRE
from emova.speech.style import Style, StylePrototypes
from emova.speech.voice import Voice
from emova_app.demo.pitch import estimate_f0

MIN_SECONDS = 2.0
MOST_LOG_F0 = 0.5  # that the pitch is moved by, about 9 semitones


@torch.inference_mode()
def voice_from_recording(voice: Voice, samples: np.ndarray, speech_share: float) -> Voice:
    """A voice that sounds like the recording, in all styles; the gender of a style makes no difference in it.

    Args:
        voice: whose detokenizer and prototypes are used; it is not changed.
        samples: ``[T]`` at the voice's rate.
        speech_share: how much of the recording is speech, 0 to 1.

    Raises:
        InputError: too short, silent, or no speech.
    """
    if is_silent(samples, voice.sample_rate) or speech_share * len(samples) < MIN_SECONDS * voice.sample_rate:
        raise InputError(f"the recording: fewer than {MIN_SECONDS:g} s of speech in it; read a sentence or two aloud")
    # The level of a microphone is no trait of a voice, but the encoder would hear it as one.
    level = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    samples = (samples * (0.08 / level)).clip(-1, 1).astype(np.float32)
    vector_S = voice.detokenizer.embed_style(torch.from_numpy(samples)[None].to(voice.device))[0].float().cpu()
    vector_S = with_pitch_of(voice, vector_S, samples)
    return Voice(voice.detokenizer, own_prototypes(voice.prototypes, vector_S))


def with_pitch_of(voice: Voice, vector_S: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
    """The vector nearest to ``vector_S`` whose level of F0 is that of the recording ``[T]``.

    The encoder was trained on few voices and draws strangers towards them. The level of F0 is linear in the style, so
    the shortest way to the measured one is known.
    """
    pitch = voice.detokenizer.vits.pitch if isinstance(voice.detokenizer, U2SDetokenizer) else None
    f0_F = estimate_f0(samples, voice.sample_rate)
    f0_F = f0_F[np.isfinite(f0_F)]
    if pitch is None or len(f0_F) < 20:
        return vector_S
    weight_S = pitch.level.weight[0].detach().float().cpu()
    with torch.no_grad():
        level = float(pitch.level(vector_S[None].to(voice.device))) + LOG_F0_CENTRE
    missing = float(np.clip(np.median(np.log(f0_F)) - level, -MOST_LOG_F0, MOST_LOG_F0))
    return vector_S + weight_S * (missing / float(weight_S.square().sum()))


def own_prototypes(prototypes: StylePrototypes, vector_S: torch.Tensor) -> StylePrototypes:
    """The vector ``[S]`` as neutral, and the offsets of the nearer of the two shipped voices around it."""
    styles = prototypes.styles
    nearer = min(styles.voices, key=lambda voice: float((prototypes[styles.plain(voice)] - vector_S).norm()))
    neutral_S = prototypes[styles.plain(nearer)]
    return StylePrototypes(
        {style.key: vector_S + prototypes[Style(nearer, style.emotion, style.pitch)] - neutral_S for style in styles},
        styles,
    )
