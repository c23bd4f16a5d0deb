"""The tabs Transcribe, Speak and Resynthesise: one task each."""

from __future__ import annotations

from html import escape

import gradio as gr
import numpy as np
import soxr

from emova.assistant import Assistant
from emova.cli.common import EXAMPLES
from emova.speech.audio import AudioLimits, check_samples, load_audio
from emova.speech.vad import RATE
from emova_app.demo import render
from emova_app.demo.draw import unit_strip
from emova_app.demo.microphone import decode_chunk
from emova_app.demo.parts import EventOptions, emotion_choice, pitch_choice, recorder, shown_errors
from emova_app.demo.uploads.files import MAX_SECONDS, uploaded

LIMITS = AudioLimits(max_seconds=MAX_SECONDS, max_bytes=16 << 20)
NOTE = f"Up to {MAX_SECONDS:g} seconds. Nothing is kept."
# These share the models with the conversations, so few run at once.
WORK: EventOptions = {"concurrency_id": "tools", "concurrency_limit": 1, "show_progress": "full"}


def _from_file(path: str | None) -> np.ndarray:
    with uploaded(path, "the recording") as data:
        return load_audio(data, RATE, LIMITS, reject_silence=True)


def _from_page(event: gr.EventData) -> np.ndarray:
    samples, rate = decode_chunk(event.pcm, event.rate)
    return check_samples(samples if rate == RATE else soxr.resample(samples, rate, RATE), RATE, LIMITS)


def _example() -> np.ndarray:
    return load_audio(EXAMPLES / "question.wav", RATE, LIMITS)


class _Sources:
    """A recorder, an upload button and an example, side by side."""

    def __init__(self) -> None:
        self.record = recorder("Record", NOTE, MAX_SECONDS)
        with gr.Row():
            self.file = gr.UploadButton("Upload a file", size="sm", file_types=["audio"], min_width=120)
            self.example = gr.Button("Use the example", size="sm", min_width=120)


def transcribe_tab(assistant: Assistant) -> None:
    """What is said in a recording, and its units."""

    def transcribe(samples: np.ndarray) -> str:
        text = assistant.transcribe(samples)
        units = assistant.tokenize(samples)
        return (
            f'<p class="em-text">{escape(text) or "…"}</p><div class="em-hood"><h4>{len(units)} units</h4>'
            f"{unit_strip(units, assistant.voice.detokenizer.codebook_size)}</div>"
            + render.sounds(render.sound("What was heard", samples, RATE, f"{len(samples) / RATE:.1f} s"))
        )

    @shown_errors(gr.skip())
    def from_file(path: str | None) -> str:
        return transcribe(_from_file(path))

    @shown_errors(gr.skip())
    def from_page(event: gr.EventData) -> str:
        return transcribe(_from_page(event))

    @shown_errors(gr.skip())
    def from_example() -> str:
        return transcribe(_example())

    gr.Markdown("Speech to text and to units.")
    sources = _Sources()
    out = gr.HTML('<p class="em-note">The text will be here.</p>', apply_default_css=False, min_height=120)
    sources.record.recorded(from_page, None, out, **WORK)
    sources.file.upload(from_file, sources.file, out, **WORK)
    sources.example.click(from_example, None, out, **WORK)


def speak_tab(assistant: Assistant) -> None:
    """A text read aloud in a style."""

    @shown_errors(gr.skip())
    def speak(text: str, voice: str, emotion: str, pitch: str) -> str:
        speech = assistant.speak(text, assistant.styles.parse(voice, emotion, pitch))
        seconds = len(speech.audio) / speech.sample_rate
        return render.sounds(
            render.sound(f"{voice}, {emotion}, {pitch}", speech.audio, speech.sample_rate, f"{seconds:.1f} s")
        )

    gr.Markdown(f"Text to speech in one of {len(assistant.styles)} styles.")
    text = gr.Textbox(
        "The train to the coast is on time.", label="Text", lines=2, max_length=assistant.config.max_text_characters
    )
    with gr.Row():
        voice = gr.Radio([*assistant.styles.voices], value=assistant.styles.voices[0], label="Voice", min_width=160)
        emotion, pitch = emotion_choice(assistant.styles, free=False), pitch_choice(assistant.styles, free=False)
    button = gr.Button("Speak", variant="primary", elem_id="speak")
    out = gr.HTML(apply_default_css=False, min_height=120, elem_id="spoken")
    button.click(speak, [text, voice, emotion, pitch], out, **WORK)
    text.submit(speak, [text, voice, emotion, pitch], out, **WORK)


def resynthesise_tab(assistant: Assistant) -> None:
    """The same words again in another style."""

    def again(samples: np.ndarray, voice: str, emotion: str, pitch: str) -> str:
        speech = assistant.resynthesize(samples, assistant.styles.parse(voice, emotion, pitch))
        return render.sounds(
            render.sound("Before", samples, RATE, f"{len(samples) / RATE:.1f} s"),
            render.sound("After", speech.audio, speech.sample_rate, f"{voice}, {emotion}, {pitch}"),
        )

    @shown_errors(gr.skip())
    def from_file(path: str | None, *style: str) -> str:
        return again(_from_file(path), *style)

    @shown_errors(gr.skip())
    def from_page(voice: str, emotion: str, pitch: str, event: gr.EventData) -> str:
        return again(_from_page(event), voice, emotion, pitch)

    @shown_errors(gr.skip())
    def from_example(*style: str) -> str:
        return again(_example(), *style)

    gr.Markdown("Speech to units and back: what is said stays, how it is said changes.")
    with gr.Row():
        voice = gr.Radio([*assistant.styles.voices], value=assistant.styles.voices[-1], label="Voice", min_width=160)
        emotion, pitch = emotion_choice(assistant.styles, free=False), pitch_choice(assistant.styles, free=False)
    style = [voice, emotion, pitch]
    sources = _Sources()
    out = gr.HTML(apply_default_css=False, min_height=120)
    sources.record.recorded(from_page, style, out, **WORK)
    sources.file.upload(from_file, [sources.file, *style], out, **WORK)
    sources.example.click(from_example, style, out, **WORK)
