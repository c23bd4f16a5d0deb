"""The tab Talk: picture, conversation, voice bar, styles, my voice, and what is under the hood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gradio as gr
import soxr
from gradio.components import Component

from emova.cli.common import EXAMPLES
from emova.core.errors import InputError
from emova.events import Speech
from emova.speech.audio import AudioLimits, load_audio
from emova.speech.vad import RATE, speech_share
from emova.vision.image import ImageLimits, load_image
from emova_app.demo import render
from emova_app.demo.microphone import decode_chunk
from emova_app.demo.page_sessions import Asked, PageSession, PageSessions
from emova_app.demo.parts import EventOptions, Update, chosen, emotion_choice, pitch_choice, recorder, shown_errors
from emova_app.demo.service import Service
from emova_app.demo.speaker import voice_from_recording
from emova_app.demo.talk import OWN, ReplyStyle, ask, ask_again, say
from emova_app.demo.theme import script
from emova_app.demo.uploads.files import MAX_SECONDS, delete, read_upload, uploaded

BAR = """
<div class="em-bar" role="group" aria-label="voice">
  <div class="em-orb" data-state="idle" aria-hidden="true"></div>
  <button type="button" data-do="talk" aria-pressed="false" title="press, speak, press again"><b>Talk</b></button>
  <button type="button" data-do="free" aria-pressed="false" title="no button needed: it hears when you speak"><b>Hands-free</b></button>
  <button type="button" data-do="stop" class="em-icon" disabled title="stop (Esc)" aria-label="stop">
    <svg viewBox="0 0 24 24"><rect x="6" y="6" width="12" height="12" rx="2"/></svg></button>
  <button type="button" data-do="replay" class="em-icon" disabled title="hear it again" aria-label="hear it again">
    <svg viewBox="0 0 24 24"><path d="M4 12a8 8 0 1 0 3-6.2M4 4v4.5h4.5"/></svg></button>
  <button type="button" data-do="save" class="em-icon" disabled title="save as WAV" aria-label="save the answer as WAV">
    <svg viewBox="0 0 24 24"><path d="M12 4v11M7 11l5 5 5-5M5 20h14"/></svg></button>
</div>
<p class="em-note" aria-live="polite">Press Talk and speak, or write below. Esc stops the voice.</p>
"""  # noqa: E501
# The newest bubble stays in view.
FOLLOW = """
watch("value", () => {
  const talk = element.querySelector(".em-talk");
  talk.scrollTop = talk.scrollHeight;
});
"""
PRIVATE = (
    "The recording stays in memory only: no file is written, and it is dropped as soon as the voice is made. "
    "Record only a voice that you may use."
)
IMAGE_LIMITS = ImageLimits(max_bytes=16 << 20)
Told = tuple[Update, Update, Update]
"""Of the conversation, the voice bar and what is under the hood."""
AUDIO_LIMITS = AudioLimits(max_seconds=MAX_SECONDS, max_bytes=16 << 20)


class TalkTab:
    """Builds the tab inside an open ``gr.Tab`` and wires its events.

    Args:
        pages: all open pages.
        ticket: the state that holds this page's ticket.
    """

    def __init__(self, pages: PageSessions, ticket: gr.State) -> None:
        self._pages = pages
        styles = self._style_set = pages.scheduler.assistant.styles
        with gr.Row(equal_height=False, elem_id="talk-tab"):
            with gr.Column(scale=5, min_width=300):
                self.picture = gr.Image(
                    label="Picture",
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    image_mode=None,
                    height=250,
                    buttons=[],
                    elem_id="picture",
                )
                with gr.Group(elem_id="style-choice"):
                    self.voice = gr.Radio([*styles.voices, OWN], value=styles.voices[0], label="Voice", elem_id="voice")
                    self.emotion = emotion_choice(styles, free=True)
                    self.pitch = pitch_choice(styles, free=True)
                with gr.Accordion("My voice", open=False, elem_id="my-voice"):
                    gr.Markdown("Read a sentence or two aloud for 5 seconds, and hear the assistant in your voice.")
                    self.own = recorder("Record 5 seconds", PRIVATE, 5, rate=24_000, clean=False, private=True)
                    self.forget = gr.Button("Forget my voice", size="sm")
            with gr.Column(scale=8, min_width=320):
                self.lines = gr.HTML(
                    render.EMPTY,
                    html_template='<div class="em-talk" tabindex="0">${value}</div>',
                    js_on_load=FOLLOW,
                    apply_default_css=False,
                    elem_id="talk",
                )
                self.bar = gr.HTML(
                    {},
                    html_template=BAR,
                    js_on_load=script("bar.js"),
                    apply_default_css=False,
                    server_functions=Service(pages).functions,
                    elem_id="bar",
                )
                with gr.Row():
                    self.text = gr.Textbox(
                        placeholder="Or write a question", show_label=False, container=False, scale=6, max_length=2000,
                        min_width=160, elem_id="question",
                    )  # fmt: skip
                    self.send = gr.Button("Send", variant="primary", scale=1, min_width=80, elem_id="send")
                with gr.Row():
                    self.example = gr.Button("Try the example", size="sm", min_width=120, elem_id="example")
                    self.audio = gr.UploadButton("Ask with a file", size="sm", file_types=["audio"], min_width=120)
                    self.again = gr.Button("Answer again", size="sm", min_width=120, elem_id="again")
                    self.new = gr.Button("New conversation", size="sm", min_width=120, elem_id="new")
        with gr.Accordion("Same words, other styles", open=False, elem_id="styles"):
            gr.Markdown(
                f"The last answer's units in all {len(styles)} styles: mel spectrogram, and F0 with lines at 100, 200 "
                "and 400 Hz."
            )
            self.speak_styles = gr.Button(f"Speak the last answer in {len(styles)} styles", elem_id="speak-styles")
            self.cards = gr.HTML(
                render.style_cards(self._style_set, {}, None), apply_default_css=False, elem_id="cards"
            )
        with gr.Accordion("Under the hood", open=False, elem_id="hood"):
            self.hood = gr.HTML(
                render.HOOD_EMPTY, html_template='<div class="em-hood">${value}</div>', apply_default_css=False
            )
        # What the page has played of the last answer, in s; -1 if nothing sounds. Filled in by ``_hush``.
        self.heard = gr.Number(-1, visible="hidden", elem_id="heard")
        self._wire(ticket)

    # --- events -------------------------------------------------------------------------------------------------------
    def _wire(self, ticket: gr.State) -> None:
        told = [self.lines, self.bar, self.hood]
        style = [self.voice, self.emotion, self.pitch]
        # A question may come while the answer to the one before is still being told.
        talking: EventOptions = {
            "concurrency_id": "talk", "concurrency_limit": 8, "trigger_mode": "multiple", "show_progress": "hidden",
        }  # fmt: skip
        small: EventOptions = {"concurrency_id": "small", "concurrency_limit": 4, "show_progress": "hidden"}
        self.bar.spoken(self._spoken, [ticket, *style], told, **talking)
        questions = (
            (self.text.submit, self._written, [ticket, self.text, *style, self.heard], [self.text, *told]),
            (self.send.click, self._written, [ticket, self.text, *style, self.heard], [self.text, *told]),
            (self.audio.upload, self._sent, [ticket, self.audio, *style, self.heard], told),
            (self.again.click, self._again, [ticket, *style, self.heard], told),
            (self.example.click, self._example, [ticket, *style, self.heard], [self.picture, *told]),
        )
        for event, function, given, changed in questions:
            event(function, given, changed, js=_hush(given), **talking)
        self.new.click(self._new, [ticket, self.heard], [*told, self.cards], js=_hush([ticket, self.heard]), **small)
        # One after the other: a picture that is taken off and the next one must not overtake each other.
        one: EventOptions = {
            "concurrency_id": "picture", "concurrency_limit": 1, "trigger_mode": "multiple", "show_progress": "hidden",
        }  # fmt: skip
        self.picture.input(self._picture, [ticket, self.picture], [self.picture], **one)
        self.own.recorded(self._own_voice, [ticket], [self.voice, self.bar], **small)
        self.forget.click(self._forget, [ticket], [self.voice], **small)
        self.speak_styles.click(
            self._styles, [ticket], [self.cards], concurrency_id="styles", concurrency_limit=1, show_progress="hidden"
        )

    def _told(self, page: PageSession, whole: bool) -> Told:
        hood = render.hood(page) if whole else gr.skip()
        return render.conversation(page), page.bar_value, hood

    def _tell(self, page: PageSession, told: Iterator[bool]) -> Iterator[Told]:
        try:
            for whole in told:
                yield self._told(page, whole)
        except InputError:
            yield self._told(page, False)
            raise

    @shown_errors(gr.skip(), gr.skip(), gr.skip())
    def _spoken(self, ticket: str, *style: str) -> Iterator[object]:
        page = self._pages.find(ticket)
        samples = page.microphone.take()
        if samples is None:
            raise InputError("nothing was heard; check the microphone and speak again")
        yield from self._tell(page, ask(page, Asked(samples, None), _style(*style), heard=True))

    @shown_errors(gr.skip(), gr.skip(), gr.skip(), gr.skip())
    def _written(self, ticket: str, text: str, voice: str, emotion: str, pitch: str, heard: float) -> Iterator[object]:
        page = self._ready(ticket, heard)
        if not text.strip():
            raise InputError("the question is empty; write something, or press Talk")
        question = ask(page, Asked(None, text.strip()), _style(voice, emotion, pitch))
        for told in self._tell(page, question):
            yield "", *told

    @shown_errors(gr.skip(), gr.skip(), gr.skip())
    def _sent(
        self, ticket: str, path: str | None, voice: str, emotion: str, pitch: str, heard: float
    ) -> Iterator[object]:
        with uploaded(path, "the recording") as data:
            page = self._ready(ticket, heard)
            samples = load_audio(data, RATE, AUDIO_LIMITS, reject_silence=True)
        yield from self._tell(page, ask(page, Asked(samples, None), _style(voice, emotion, pitch)))

    @shown_errors(gr.skip(), gr.skip(), gr.skip())
    def _again(self, ticket: str, voice: str, emotion: str, pitch: str, heard: float) -> Iterator[object]:
        page = self._ready(ticket, heard)
        yield from self._tell(page, ask_again(page, _style(voice, emotion, pitch)))

    @shown_errors(gr.skip(), gr.skip(), gr.skip(), gr.skip())
    def _example(self, ticket: str, voice: str, emotion: str, pitch: str, heard: float) -> Iterator[object]:
        page = self._ready(ticket, heard)
        picture = load_image(EXAMPLES / "photo.png")
        page.new_picture(picture)
        page.drop_picture_file()
        samples = load_audio(EXAMPLES / "question.wav", RATE, AUDIO_LIMITS)
        image: Update = picture
        for told in self._tell(page, ask(page, Asked(samples, None), _style(voice, emotion, pitch))):
            yield image, *told
            image = gr.skip()

    @shown_errors(gr.skip(), gr.skip(), gr.skip(), gr.skip())
    def _new(self, ticket: str, heard: float) -> tuple[Update, ...]:
        page = self._ready(ticket, heard)
        page.restart()
        return *self._told(page, True), render.style_cards(self._style_set, {}, None)

    def _ready(self, ticket: str, heard: float) -> PageSession:
        """The page, silent and ready to be asked."""
        page = self._pages.find(ticket)
        if not page.alive():
            gr.Info("Nothing was said for long, so the conversation was closed. A new one begins.", title="New")
        page.microphone.drop()
        page.interrupt(heard if heard is not None and heard >= 0 else None)
        return page

    @shown_errors(None)
    def _picture(self, ticket: str, path: str | None) -> Update:
        page = self._pages.find(ticket)
        page.drop_picture_file()
        page.new_picture(None)
        if path is None:
            return gr.skip()
        try:
            page.new_picture(load_image(read_upload(path, "the picture"), IMAGE_LIMITS))
        except InputError:
            delete(path)
            raise
        page.picture_file = path
        return gr.skip()

    @shown_errors(gr.skip(), gr.skip())
    def _own_voice(self, ticket: str, event: gr.EventData) -> tuple[Update, Update]:
        page = self._pages.find(ticket)
        samples, rate = decode_chunk(event.pcm, event.rate)
        voice = page.assistant.voice
        share = speech_share(soxr.resample(samples, rate, RATE))
        own = voice_from_recording(voice, soxr.resample(samples, rate, voice.sample_rate), share)
        page.own_voice = own
        units = page.reply.units if page.reply is not None else page.assistant.speak("Hello, how are you?").units
        if page.session.request is None:
            page.interrupt(None)
            say(page, own.synthesize(units, own.styles.default), own.sample_rate)
        gr.Info("The assistant speaks in your voice from now on.", title="My voice")
        return gr.Radio(value=OWN), page.bar_value

    @shown_errors(gr.skip())
    def _forget(self, ticket: str) -> Update:
        self._pages.find(ticket).own_voice = None
        gr.Info("Your voice is forgotten.", title="My voice")
        return gr.Radio(value=self._style_set.voices[0])

    @shown_errors(gr.skip())
    def _styles(self, ticket: str) -> Iterator[object]:
        page = self._pages.find(ticket)
        reply = page.reply
        if reply is None:
            raise InputError("nothing has been answered yet; ask something first")
        chosen_style = self._style_set.parse(reply.voice, reply.emotion, reply.pitch)
        spoken: dict[str, Speech] = {}
        page.styles = spoken
        yield render.style_cards(self._style_set, spoken, chosen_style)
        for done, style in enumerate(self._style_set, 1):
            if page.styles is not spoken:
                return  # another answer has come
            spoken[style.key] = page.assistant.render(reply.units, style)
            if done % 4 == 0:
                yield render.style_cards(self._style_set, spoken, chosen_style)


def _hush(inputs: Sequence[Component]) -> str:
    """JavaScript that silences the page before a question leaves, and fills in the last input: what was heard."""
    last = len(inputs) - 1
    return f"(...given) => [...given.slice(0, {last}), window.emova.hush()]"


def _style(voice: str, emotion: str, pitch: str) -> ReplyStyle:
    return ReplyStyle(voice, chosen(emotion), chosen(pitch))
