"""The turn context's law: whatever happened to it, it holds what reading the opening and the kept turns anew gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError, TooLongError
from emova.decoding.loop import Decoder
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.engine.engine import EngineConfig
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.parser import SpokenReply
from emova.session.history import TurnContext
from tests.fixtures_speech import BABBLE

LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=40)
RED = Image.new("RGB", (40, 30), "red")


@pytest.fixture(scope="module", params=["engine", "standard"])
def assistant(request, tiny_checkpoint) -> Assistant:
    config = AssistantConfig(reply_guard=BABBLE, reply_limits=LIMITS, engine=EngineConfig(half_cache=False))
    assistant = Assistant.from_pretrained(tiny_checkpoint, config=config)
    if request.param == "standard":
        assistant.decoder = Decoder(assistant.parts.model)
    assert isinstance(assistant.decoder, DecodingBackend)
    return assistant


def question(assistant: Assistant, text: str, picture: bool) -> Prompt:
    content: list[dict] = [{"type": "image", "image": RED}] if picture else []
    prompt = assistant.prompt([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
    return Prompt(prompt.ids[1:], prompt.pixel_values, prompt.image_grids)


def answer(assistant: Assistant, units: int) -> list[int]:
    reply = SpokenReply("Hi?", "A word or two.", "sad", "low", tuple(range(units)))
    return assistant.reply_format.encode(reply, assistant.table)


def check(assistant: Assistant, history: TurnContext) -> None:
    """The context's scores are those of a fresh one that reads the same turns."""
    probe, decoder = question(assistant, "Why?", False), assistant.decoder
    fed = history.opening()
    for turn in history.turns:
        fed = fed + turn.question + Prompt(turn.answer)
    assert history.length == len(fed.ids) <= decoder.max_length
    found = decoder.feed(history.context, history.rest(probe))
    wanted = decoder.feed(decoder.new_context(), fed + probe)
    history.rewind()
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_holds_what_reading_all_anew_gives(assistant, seed: int) -> None:
    rng, history = np.random.default_rng(seed), TurnContext(assistant, "Be kind.")
    kinds, most = set(), 0
    for _ in range(25):
        kind = ["recall", "ask", "replace", "forget", "instruct", "begin", "rewind", "ahead"][rng.integers(8)]
        asked = question(assistant, "word " * int(rng.integers(1, 40)), bool(rng.integers(2)))
        if kind == "recall":
            history.recall(asked, answer(assistant, int(rng.integers(60))))
        elif kind == "ask":
            grammar = history.grammar(asked, ReplyConstraints("Hi?", limits=LIMITS))
            rest = history.rest(asked)
            written = assistant.decoder.write(history.context, rest, grammar, assistant.config.sampling)
            history.add(asked, [token for tokens in written for token in tokens])
        elif kind in ("replace", "forget"):
            history.read_ahead()
            if not history.turns:
                continue
            history.replace_last(answer(assistant, int(rng.integers(30))) if kind == "replace" else [])
        elif kind == "instruct":
            history.instruct("Be brief." * int(rng.integers(3)))
        elif kind == "begin":  # a question that is still being asked, in pieces
            for length in sorted(rng.integers(10, len(asked.ids), 2).tolist() if len(asked.ids) > 11 else [1]):
                history.read_on(Prompt(asked.ids[:length], asked.pixel_values, asked.image_grids))
            if not rng.integers(2):
                continue  # the next step finds it begun
        elif kind == "rewind":
            history.rewind()
        else:
            history.read_ahead()
        kinds.add(kind)
        most = max(most, len(history))
        check(assistant, history)
    assert len(kinds) >= 6 and most >= 2


def test_a_reply_that_is_broken_off_keeps_what_it_is_told_to(assistant) -> None:
    history, asked, kept = TurnContext(assistant), question(assistant, "Who is it?", True), answer(assistant, 2)
    history.read_ahead()
    assert not history.break_off(asked, kept), "the question was not read"
    grammar = history.grammar(asked, ReplyConstraints(limits=LIMITS))
    written = assistant.decoder.write(history.context, history.rest(asked), grammar, assistant.config.sampling)
    for _ in range(4):
        next(written)
    assert history.break_off(asked, kept) and history.turns[-1].answer == tuple(kept)
    check(assistant, history)


def test_what_has_no_room_changes_nothing(assistant) -> None:
    history = TurnContext(assistant)
    history.recall(question(assistant, "Hello.", True), answer(assistant, 5))
    turns, length = list(history.turns), history.length
    endless = question(assistant, "word " * 900, False)
    with pytest.raises(TooLongError):
        history.grammar(endless, ReplyConstraints(limits=LIMITS))
    with pytest.raises(TooLongError):
        history.recall(endless, answer(assistant, 5))
    with pytest.raises(InputError):
        history.instruct("word " * 900)
    assert history.turns == turns and history.length == length
    check(assistant, history)
