"""The page's own HTML: its frame, the talk, and the tabs with one task each."""

from __future__ import annotations

import json
from html import escape

from emova.speech.style import StyleSet
from emova_app.demo.conversation.examples import EXAMPLES, Example
from emova_app.demo.conversation.page_session import FREE, OWN
from emova_app.demo.recordings import MAX_SECONDS
from emova_app.demo.theme import static

TABS = {"talk": "Talk", "transcribe": "Transcribe", "speak": "Speak", "resynthesise": "Resynthesise"}
ABOUT_TASKS = {
    "transcribe": "It writes down what is said, in words and in speech units.",
    "speak": "It reads a text aloud, in the voice and with the feeling that you choose.",
    "resynthesise": "It says again what was said, in another voice: the words stay, how they are said changes.",
}
TEXT = "The train to the coast is on time."


def icon(name: str) -> str:
    """One of the page's signs."""
    return f'<svg class="em-i" aria-hidden="true"><use href="#em-i-{name}"/></svg>'


def frame() -> str:
    """The head of the page: its name, its tabs, and what concerns all of it."""
    tabs = "".join(
        f'<button type="button" role="tab" id="tab-{name}" data-tab="{name}" aria-controls="panel-{name}" '
        f'aria-selected="false" tabindex="-1">{word}</button>'
        for name, word in TABS.items()
    )
    return f"""
{static("icons.svg")}
<header class="em-head"><div class="em-logo" aria-hidden="true"></div><h1>emova</h1>
<div role="tablist" aria-label="what to do" class="em-tabs">{tabs}</div>
<div class="em-head-tools">
<button type="button" class="em-round em-talk-only" data-do="new" title="new conversation"
  aria-label="new conversation">{icon("new")}</button>
<button type="button" class="em-round em-talk-only" data-do="settings" title="voice and settings"
  aria-label="voice and settings">{icon("settings")}</button>
<button type="button" class="em-round em-theme" title="light or dark"
  aria-label="light or dark">{icon("theme")}</button>
</div></header>
<div class="em-drop" aria-hidden="true"><p>Drop a picture or a recording</p></div>"""


def choices(group: str, name: str, words: tuple[str, ...], chosen: str) -> str:
    """A group of choices, one of which holds; the browser makes it one tab stop."""
    options = "".join(
        f'<label><input type="radio" name="{group}-{name}" value="{escape(word)}"{" checked" * (word == chosen)}>'
        f"<span>{escape(word)}</span></label>"
        for word in words
    )
    return f'<fieldset class="em-choice"><legend>{name.capitalize()}</legend><div>{options}</div></fieldset>'


def example_cards(sees: bool) -> str:
    """What one may ask, as buttons; about pictures only a model that sees any."""
    asked = (each for each in EXAMPLES if sees or not each.picture)
    return f'<ul class="em-examples">{"".join(f"<li>{_card(each)}</li>" for each in asked)}</ul>'


def _card(each: Example) -> str:
    how = "spoken" if each.sound else "written"
    thumbnail = each.thumbnail
    shown = (
        f'<img src="{thumbnail}" alt="{escape(each.alt)}" width="52" height="52">'
        if thumbnail
        else f'<i class="em-sign" aria-hidden="true">{icon("mic" if each.sound else "send")}</i>'
    )
    return (
        f'<button type="button" data-example="{each.name}" data-thumbnail="{thumbnail}">{shown}'
        f"<span>{escape(each.asks)}<small>{how}</small></span></button>"
    )


def talk(styles: StyleSet, about: str, language: str, sees: bool) -> str:
    """The talk: conversation, orb, bar, drawer."""
    cards, words = example_cards(sees), " ".join(styles.emotions)
    return f"""
<div class="em-app" data-phase="idle" data-empty="yes"
  data-emotions="{escape(words)}" data-language="{escape(language)}">
<section class="em-conversation" aria-label="conversation">
  <div class="em-welcome"><h2>What can I ask?</h2><p class="em-about">{escape(about)}</p>{cards}</div>
  <div class="em-lines" role="log" aria-live="polite" aria-relevant="additions" aria-label="what was said"
    tabindex="0"></div>
  <div class="em-caption" aria-hidden="true" hidden><div><p dir="auto"><b
    class="em-spoken">{icon("mic")}</b><span></span><i class="em-tail"></i></p></div></div>
  <div class="em-unseen" role="log" aria-live="polite" aria-relevant="additions" aria-label="what you are saying"></div>
</section>
<section class="em-stage" aria-label="state">
  <div class="em-orb" aria-hidden="true"><i></i><b></b></div>
  <p class="em-note" role="status">One moment …</p>
  <div class="em-stage-tools">
    <button type="button" class="em-button" data-do="stop" title="stop (Esc)" disabled>{icon("stop")}Stop</button>
    <button type="button" class="em-button em-if-said" data-do="again" aria-label="answer again"
      title="answer again">{icon("again")}<span>Answer again</span></button>
    <button type="button" class="em-button em-if-said" data-do="what" aria-label="what can I ask?"
      title="what can I ask?">{icon("what")}<span>What can I ask?</span></button>
  </div>
</section>
<form class="em-bar" aria-label="ask">
  <div class="em-writing">
    <div class="em-field"><div class="em-picture" title="you ask about this picture" hidden>
        <img alt="the picture you ask about" width="36" height="36">
        <button type="button" data-do="no-picture" aria-label="take the picture off"
          title="take the picture off">{icon("x")}</button></div>
      <textarea rows="1" maxlength="2000" dir="auto" aria-label="your question"
      placeholder="Write a question" enterkeyhint="send"></textarea>
      <button type="submit" class="em-round" aria-label="send" title="send (Enter)">{icon("send")}</button></div>
    <div class="em-buttons">
      <button type="button" class="em-round" data-do="camera" aria-label="take a picture"
        title="take a picture">{icon("camera")}</button>
      <button type="button" class="em-round" data-do="attach" aria-label="choose a picture or a recording"
        title="choose a picture or a recording">{icon("picture")}</button>
      <button type="button" class="em-button" data-do="free" aria-pressed="false"
        title="no button needed: it hears when you speak">{icon("free")}Hands-free</button>
      <button type="button" class="em-button em-primary" data-do="talk" aria-pressed="false"
        title="press, speak, press again; or hold">{icon("mic")}Talk</button>
    </div>
    <input type="file" accept="image/*,audio/*" hidden tabindex="-1" aria-label="a picture or a recording">
  </div>
  <div class="em-recording" role="group" aria-label="recording" hidden>
    <button type="button" class="em-button" data-do="cancel">{icon("x")}Cancel</button>
    <span class="em-dot" aria-hidden="true"></span><span class="em-clock" role="timer">0:00</span>
    <span class="em-level-lane" aria-hidden="true"><i class="em-level"></i></span>
    <button type="button" class="em-button em-live" data-do="send-recording">{icon("send")}Send</button>
  </div>
</form>
<div class="em-wait" hidden><div role="status"><h2></h2><p></p>
  <button type="button" class="em-button em-primary" hidden></button></div></div>
<dialog class="em-what em-sheet" aria-label="what can I ask"><header><h2>What can I ask?</h2>{_close()}</header>
  <p class="em-about">{escape(about)}</p>{cards}</dialog>
<dialog class="em-camera em-sheet" aria-label="camera"><header><h2>Camera</h2>{_close()}</header>
  <video autoplay muted playsinline aria-label="what the camera sees"></video>
  <button type="button" class="em-button em-primary" data-do="shutter"
    disabled>{icon("camera")}Take it</button></dialog>
{_drawer(styles)}
</div>"""


def _close() -> str:
    return (
        f'<button type="button" class="em-round" data-close aria-label="close" title="close (Esc)">{icon("x")}</button>'
    )


def _drawer(styles: StyleSet) -> str:
    panels = {"voice": "Voice", "styles": f"{len(styles)} styles", "hood": "Under the hood"}
    tabs = "".join(
        f'<button type="button" role="tab" id="drawer-{name}" data-panel="{name}" aria-controls="drawer-panel-{name}" '
        f'aria-selected="false" tabindex="-1">{word}</button>'
        for name, word in panels.items()
    )
    keys = [
        {"key": each.key, "gender": each.gender, "emotion": each.emotion, "pitch": each.pitch} for each in styles.all
    ]
    wishes = (
        choices("em", "voice", (*styles.voices, OWN), styles.voices[0])
        + choices("em", "emotion", (FREE, *styles.emotions), FREE)
        + choices("em", "pitch", (FREE, *styles.pitches), FREE)
    )
    return f"""
<dialog class="em-drawer em-sheet" aria-label="voice and settings"><header>
  <div role="tablist" aria-label="voice and settings" class="em-tabs">{tabs}</div>{_close()}</header>
  <p class="em-drawer-note" role="status" hidden></p>
  <div role="tabpanel" id="drawer-panel-voice" aria-labelledby="drawer-voice" hidden>{wishes}
    <h2>My voice</h2><p>Read a sentence or two aloud for five seconds, and hear it answer in your voice.</p>
    <div class="em-my-voice"></div>
    <p class="em-private">The recording stays in memory: no file is written, and it is dropped once the voice is made.
      Record only a voice that you may use.</p>
    <button type="button" class="em-button" data-do="forget" hidden>Forget my voice</button>
    <h2>Colours</h2><button type="button" class="em-button em-theme">{icon("theme")}Light or dark</button></div>
  <div role="tabpanel" id="drawer-panel-styles" aria-labelledby="drawer-styles" hidden>
    <p class="em-of-styles" dir="auto"></p>
    <div class="em-styles" data-styles="{escape(json.dumps(keys))}"></div>
    <p class="em-hint">Mel spectrogram, and the pitch with lines at 100, 200 and 400 Hz.</p></div>
  <div role="tabpanel" id="drawer-panel-hood" aria-labelledby="drawer-hood" hidden><div class="em-hood"></div></div>
</dialog>"""


def tool(name: str, styles: StyleSet) -> str:
    """A tab with one task."""
    wishes = ""
    if name != "transcribe":
        voice = styles.voices[0] if name == "speak" else styles.voices[-1]
        wishes = (
            choices(name, "voice", styles.voices, voice)
            + choices(name, "emotion", styles.emotions, styles.emotions[0])
            + choices(name, "pitch", styles.pitches, styles.pitches[0])
        )
        wishes = f'<div class="em-wishes">{wishes}</div>'
    given = _text() if name == "speak" else _sources()
    return f"""
<section class="em-toolbox" data-tool="{name}" data-seconds="{MAX_SECONDS:g}" aria-label="{TABS[name]}">
<p class="em-task">{ABOUT_TASKS[name]}</p>{wishes}{given}
<p class="em-note" role="status"></p><div class="em-out" aria-live="off"></div></section>"""


def _sources() -> str:
    return f"""<div class="em-sources"><div class="em-record-here"></div>
<button type="button" class="em-button" data-do="file">{icon("file")}Choose a recording</button>
<button type="button" class="em-button" data-do="example">{icon("play")}Use the example</button>
<input type="file" accept="audio/*" hidden tabindex="-1" aria-label="a recording"></div>
<p class="em-hint">Up to {MAX_SECONDS:g} seconds. You can also drop a file here. Nothing is kept.</p>"""


def _text() -> str:
    return f"""<div class="em-speak"><label for="speak-text">Text</label>
<textarea id="speak-text" rows="2" maxlength="2000" dir="auto">{TEXT}</textarea>
<button type="button" class="em-button em-primary" data-do="speak">{icon("play")}Speak</button></div>"""
