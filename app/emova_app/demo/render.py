"""What a page shows, as HTML; everything that a user or a model said is escaped."""

from __future__ import annotations

import base64
import io
import json
from html import escape

import numpy as np

from emova.events import Reply, Speech
from emova.speech.style import Style, StyleSet
from emova_app.demo.draw import f0_curve, mel_image, unit_strip, waterfall
from emova_app.demo.page_sessions import Line, PageSession
from emova_app.demo.pitch import estimate_f0
from emova_app.demo.trace import Trace

EMPTY = """
<div class="em-empty"><div class="em-empty-mark" aria-hidden="true"></div>
<h3>Show a picture, then ask</h3>
<p>Speak or write. The answer comes in text and in a voice with a feeling; you may interrupt it.</p></div>"""
STATES = {"cut": "interrupted", "failed": "no answer"}


def conversation(page: PageSession) -> str:
    """The bubbles."""
    if not page.lines:
        return EMPTY
    return f'<div class="em-lines" role="log" aria-live="polite">{"".join(map(_bubble, page.lines))}</div>'


def _bubble(line: Line) -> str:
    parts = []
    if line.thumbnail:
        parts.append(f'<img class="em-thumb" src="{line.thumbnail}" alt="the picture that was shown">')
    text = escape(line.text)
    if not text and line.state == "open":
        text = '<span class="em-dots" aria-label="one moment"><i></i><i></i><i></i></span>'
    mark = '<span class="em-spoken" title="spoken" aria-label="spoken"></span>' if line.spoken else ""
    if text or mark:
        parts.append(f"<p>{mark}{text}</p>")
    labels = [f'<span class="em-label em-{escape(name.split()[0])}">{escape(name)}</span>' for name in line.labels]
    if line.state in STATES:
        labels.append(f'<span class="em-label em-state">{STATES[line.state]}</span>')
    if labels:
        parts.append(f"<footer>{''.join(labels)}</footer>")
    who = "You" if line.role == "user" else "emova"
    return f'<article class="em-line em-{line.role}" aria-label="{who}">{"".join(parts)}</article>'


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


# --- same words, other styles -----------------------------------------------------------------------------------------
def style_cards(styles: StyleSet, spoken: dict[str, Speech], chosen: Style | None) -> str:
    """One card a style: mel, F0, and a button that plays it; those that are not spoken yet are empty."""
    cards = "".join(_style_card(style, spoken.get(style.key), style == chosen) for style in styles)
    return f'<div class="em-styles">{cards}</div>'


def _style_card(style: Style, speech: Speech | None, chosen: bool) -> str:
    name = f"{style.gender}, {style.emotion}, {style.pitch}"
    body = '<div class="em-mel em-waiting"></div><div class="em-f0 em-waiting"></div>'
    if speech is not None:
        body = figure(speech.audio, speech.sample_rate, name)
    return (
        f'<button class="em-style{" em-chosen" if chosen else ""}" data-style="{style.key}" '
        f'aria-label="play: {name} pitch"{"" if speech else " disabled"}>'
        f'<header><span class="em-label em-{style.emotion}">{style.emotion}</span>'
        f"<span>{style.gender}, {style.pitch}</span></header>{body}</button>"
    )


# --- under the hood ---------------------------------------------------------------------------------------------------
HOOD_EMPTY = '<p class="em-note">Ask something: the transcript, units, JSON and timing of the answer will be here.</p>'


def hood(page: PageSession) -> str:
    """Transcript, units, JSON and the waterfall of the last whole reply."""
    reply, trace = page.reply, page.trace
    if reply is None or trace is None:
        return HOOD_EMPTY
    codebook = page.assistant.voice.detokenizer.codebook_size
    seconds = len(reply.audio) / reply.sample_rate
    return (
        f"<h4>Where the time went</h4>{waterfall(_bars(trace), trace.timings.total, trace.timings.first_audio)}"
        f'<p class="em-note">{seconds:.1f} s of speech in {trace.timings.total:.1f} s.</p>'
        f"<h4>Understood</h4><p>{escape(reply.transcript)}</p>"
        f"<h4>{len(reply.units)} units, 25 a second</h4>{unit_strip(reply.units, codebook)}"
        f"<h4>JSON</h4><pre class='em-json' tabindex='0'>{escape(reply_json(reply))}</pre>"
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
