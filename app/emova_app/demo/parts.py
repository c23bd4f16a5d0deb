"""Parts of the page that are used more than once: the recorder, style choices, and errors as messages."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Literal, ParamSpec, TypedDict, TypeVar, cast

import gradio as gr

from emova.core.errors import InputError
from emova.speech.style import StyleSet
from emova_app.demo.theme import script

log = logging.getLogger(__name__)
FAULT = "Something went wrong inside; try again. The terminal says more."
FREE = "auto"
Given = ParamSpec("Given")
Result = TypeVar("Result")
Update = object
"""What gradio shows in a component: a value, ``gr.skip()``, or the component itself with other properties."""


class EventOptions(TypedDict, total=False):
    """How gradio runs an event: events of one ``concurrency_id`` share ``concurrency_limit`` threads."""

    concurrency_id: str
    concurrency_limit: int
    trigger_mode: Literal["once", "multiple", "always_last"]
    show_progress: Literal["full", "minimal", "hidden"]


def warn(error: InputError, title: str = "Please note") -> None:
    """One line at the page's corner. What a user typed may be in it, and the page would read it as HTML."""
    message = str(error)
    gr.Warning(message[:1].upper() + message[1:].replace("<", "‹").replace(">", "›"), title=title, duration=8)


def shown_errors(*fallback: object) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Errors of an event become messages, and the outputs ``fallback``; a generator just ends."""

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        def tell(error: Exception) -> object:
            if isinstance(error, InputError):
                warn(error)
            else:
                log.exception("an event of the page failed")
                gr.Warning(FAULT, title="Sorry")
            return fallback[0] if len(fallback) == 1 else fallback

        @functools.wraps(function)
        def once(*arguments: Given.args, **options: Given.kwargs) -> object:
            try:
                return function(*arguments, **options)
            except Exception as error:
                return tell(error)

        @functools.wraps(function)
        def often(*arguments: Given.args, **options: Given.kwargs) -> Iterator[object]:
            try:
                yield from cast(Iterator[object], function(*arguments, **options))
            except Exception as error:
                yield tell(error)

        return cast(Callable[Given, Result], often if inspect.isgeneratorfunction(function) else once)

    return decorate


def recorder(
    word: str, note: str, seconds: float, *, rate: int = 16_000, clean: bool = True, private: bool = False
) -> gr.HTML:
    """A button that records up to ``seconds`` and fires ``recorded`` with ``pcm`` (base64) and ``rate``.

    Args:
        clean: let the browser take off echo and noise.
        private: the note is a promise, and looks like one.
    """
    return gr.HTML(
        html_template=(
            f'<div class="em-record" data-seconds="{seconds:g}" data-rate="{rate}" '
            f'data-clean="{"yes" if clean else "no"}"><button type="button" aria-pressed="false"><b>{word}</b></button>'
            '<div class="em-track"><div class="em-fill"></div></div>'
            f'<p class="em-note{" em-private" if private else ""}" aria-live="polite">{note}</p></div>'
        ),
        js_on_load=script("recorder.js"),
        apply_default_css=False,
    )


def emotion_choice(styles: StyleSet, free: bool) -> gr.Radio:
    """Emotion; ``free`` offers to leave it to the assistant, and is then the default."""
    choices = [FREE, *styles.emotions] if free else list(styles.emotions)
    return gr.Radio(choices, value=choices[0], label="Emotion", min_width=160)


def pitch_choice(styles: StyleSet, free: bool) -> gr.Radio:
    """Pitch; as ``emotion_choice``."""
    choices = [FREE, *styles.pitches] if free else list(styles.pitches)
    return gr.Radio(choices, value=choices[0], label="Pitch", min_width=160)


def chosen(value: str) -> str | None:
    """What a choice means: None where it is left to the assistant."""
    return None if value == FREE else value
