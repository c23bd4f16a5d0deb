"""What a page shows, as HTML; everything that a user or a model said is escaped."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from emova.events import Reply
from emova_app.demo.conversation.page_session import Answer
from emova_app.demo.conversation.trace import Trace
from emova_app.demo.draw import f0_curve, mel_image, unit_strip, waterfall
from emova_app.demo.pitch import estimate_f0

if TYPE_CHECKING:
    from emova.assistant import Assistant


# --- sound ------------------------------------------------------------------------------------------------------------
def wav_url(samples: np.ndarray, sample_rate: int) -> str:
    """``[T]`` samples as a data URL of a 16-bit WAV: no file is written, so none has to be deleted."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(samples: np.ndarray, sample_rate: int, label: str) -> str:
    """Mel spectrogram and F0 of ``[T]`` samples, one above the other."""
    name = escape(label)
    return (
        f'<img class="em-mel" src="{mel_image(samples, sample_rate)}" alt="{name} mel spectrogram">'
        f"{f0_curve(estimate_f0(samples, sample_rate), label)}"
    )


def sound(title: str, samples: np.ndarray, sample_rate: int, note: str = "") -> str:
    """A card with a player and the figure of its sound."""
    return (
        f'<section class="em-sound"><header><b>{escape(title)}</b><span>{escape(note)}</span></header>'
        f'<audio controls src="{wav_url(samples, sample_rate)}" aria-label="{escape(title)}"></audio>'
        f"{figure(samples, sample_rate, title)}</section>"
    )


def sounds(*cards: str) -> str:
    """Cards side by side."""
    return f'<div class="em-sounds">{"".join(cards)}</div>'


# --- under the hood ---------------------------------------------------------------------------------------------------
def hood(answer: Answer, assistant: Assistant) -> str:
    """Transcript, units, JSON and the waterfall of an answer."""
    reply, trace, codec = answer.reply, answer.trace, assistant.voice.detokenizer
    strip = unit_strip(reply.units, codec.codebook_size, codec.unit_rate)
    return (
        f"<h3>Where the time went</h3>{waterfall(_bars(trace), trace.timings.total, trace.timings.first_audio)}"
        f'<p class="em-note">{answer.seconds:.1f} s of speech in {trace.timings.total:.1f} s.</p>'
        f'<h3>Understood</h3><p dir="auto">{escape(reply.transcript)}</p>'
        f"<h3>{len(reply.units)} units, {codec.unit_rate:g} a second</h3>{strip}"
        f'<h3>JSON</h3><pre class="em-json" tabindex="0" role="region" aria-label="JSON">'
        f"{escape(reply_json(reply))}</pre>"
    )


def _bars(trace: Trace) -> list[tuple[str, str, list[tuple[float, float]]]]:
    timings = trace.timings
    read = timings.listen + timings.prefill
    bars: list[tuple[str, str, list[tuple[float, float]]]] = []
    if timings.listen > 1e-3:
        bars.append(("hear the end", "listen", [(0.0, timings.listen)]))
    bars.append(("read", "read", [(timings.listen, read)]))
    # A written question need not be understood: its transcript is there at once.
    understood = max([read, *trace.transcript])
    if understood > read:
        bars.append(("transcript", "write", [(read, understood)]))
    if trace.text:
        bars.append(("text", "write", [(understood, max(understood, trace.text[-1]))]))
    bars.append(("units and voice", "speak", trace.sound))
    return bars


def reply_json(reply: Reply) -> str:
    """The reply in the order in which the model writes it (EMOVA §4.2)."""
    written = {
        "user question text": reply.transcript,
        "assistant response text": reply.text,
        "assistant response emotion": reply.emotion,
        "assistant response pitch": reply.pitch,
        "assistant response speech": " ".join(map(str, reply.units)),
    }
    return json.dumps(written, ensure_ascii=False, indent=2)
