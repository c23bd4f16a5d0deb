"""What counts units counts seconds: a codec of another rate than EMOVA's 25 units a second gets as much time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emova.assistant import Assistant, AssistantConfig
from emova.checkpoint.registry import REPLY_FORMATS, build_reply_format
from emova.core.errors import GarbledReplyError
from emova.decoding.sampling import Sampling
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, ReplyLimits, speech_grammar, speech_piece
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.guard import ReplyGuard
from emova.reply.json import JsonReply
from emova.session.scheduler import Scheduler
from emova.session.takes import TakesConfig
from emova.speech.style import DEFAULT_STYLES
from tests.fixtures_speech import BABBLE

TEXT = "The old mat is there, and so is a cat that sleeps."  # 37 letters
RATES = (6.25, 12.5, 25.0, 50.0)
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8)


@pytest.fixture(scope="module")
def table(tiny_tokenizer) -> TokenTable:
    return TokenTable.from_tokenizer(tiny_tokenizer)


def written(table: TokenTable, grammar: Grammar, longest: bool) -> int:
    """Units of the shortest or the longest speech that a grammar lets through."""
    count = 0
    while not grammar.done:
        forced = grammar.take_forced()
        if grammar.done:
            break
        allowed = grammar.allowed()
        units = allowed[table.unit_of[allowed] >= 0]
        ends = allowed[np.isin(allowed, (table.speech_end, table.end_of_turn))]
        token = int(units[0] if len(units) and (longest or not len(ends)) else (*ends, *allowed)[0])
        count += sum(table.unit_of[each] >= 0 for each in (*forced, token))
        grammar.advance(token)
    return int(count)


# The grammar of glm_4_voice counts what is written, and no time.
@pytest.mark.parametrize("kind", sorted(set(REPLY_FORMATS.built_in) - {"glm_4_voice"}))
def test_reading_aloud_lasts_as_many_seconds_at_any_rate(table: TokenTable, kind: str) -> None:
    reply_format = build_reply_format(kind, {}, DEFAULT_STYLES)
    for longest in (False, True):
        usual = written(table, reply_format.reading(table, TEXT, 10_000), longest)
        found = {rate: written(table, reply_format.reading(table, TEXT, 10_000, rate), longest) for rate in RATES}
        assert found[25.0] == usual
        assert all(abs(found[rate] / rate - usual / 25) < 1 / rate + 1 / 25 for rate in RATES)


def test_the_pieces_of_a_sentence_end_where_the_whole_does(table: TokenTable) -> None:
    for rate in RATES:
        for longest in (False, True):
            whole = written(table, speech_grammar(table, TEXT, 10_000, rate), longest)
            begun = 0
            while (piece := written(table, speech_piece(table, TEXT, 10_000, rate, begun, 7), longest)) == 7:
                begun += 7
            assert begun + piece == whole


class Spoken(JsonReply):
    """Gives away which grammars were asked for."""

    wishes: list[ReplyConstraints]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        self.wishes.append(wish)
        return super().grammar(table, wish)


def test_a_reply_is_stopped_after_as_many_seconds(table: TokenTable) -> None:
    longest = {}
    for rate in RATES:
        limits = ReplyLimits(max_units=10_000)
        wish = ReplyConstraints(transcript="", text=TEXT, emotion="sad", pitch="low", limits=limits, unit_rate=rate)
        longest[rate] = written(table, JsonReply().grammar(table, wish), longest=True) / rate
    assert max(longest.values()) - min(longest.values()) <= 1 / min(RATES)
    same = ReplyConstraints(transcript="", text=TEXT, emotion="sad", pitch="low", limits=limits)
    assert written(table, JsonReply().grammar(table, same), longest=True) / 25 == longest[25.0]


def test_speech_of_any_rate_has_units_for_its_letters() -> None:
    guard = ReplyGuard()
    for rate in RATES:
        least = int(guard.least_units * rate / 25 * 37) + 1
        guard.check_speech(TEXT, least, rate)
        with pytest.raises(GarbledReplyError):
            guard.check_speech(TEXT, least - 1, rate)
    with pytest.raises(GarbledReplyError):
        guard.check_speech(TEXT, 14)
    guard.check_speech(TEXT, 15)


def loaded(folder: Path, reply_format: ReplyFormat | None = None, takes: int = 1) -> Assistant:
    config = AssistantConfig(
        reply_guard=BABBLE, reply_limits=LIMITS, sampling=Sampling(seed=1), takes=TakesConfig(most=takes, clear=1e9)
    )
    assistant = Assistant.from_pretrained(folder, config=config)
    return Assistant(assistant.parts, config, reply_format)


@pytest.mark.parametrize("takes", [1, 2])
def test_an_assistant_reads_at_its_voices_rate(tiny_checkpoint, tiny_vq_checkpoint, takes: int) -> None:
    slow, usual = loaded(tiny_vq_checkpoint, takes=takes), loaded(tiny_checkpoint, takes=takes)
    assert (slow.voice.detokenizer.unit_rate, usual.voice.detokenizer.unit_rate) == (12.5, 25.0)
    for assistant, least, most in ((slow, 17, 150), (usual, 33, 300)):
        (sentence,) = assistant.reading(TEXT)
        assert written(assistant.table, sentence.grammar(), longest=False) == least
        assert written(assistant.table, sentence.grammar(), longest=True) == most
        assert written(assistant.table, sentence.piece(0, 10_000), longest=False) == least
        assert assistant.speak("Hello there.").units  # through the whole chain


def test_a_dialogue_knows_its_voices_rate(tiny_vq_checkpoint, monkeypatch) -> None:
    rates: list[float] = []
    allowed = TokenTable.allowed_units
    at_once = lambda table, may_end: np.array([table.speech_end]) if may_end else allowed(table, may_end)  # noqa: E731
    monkeypatch.setattr(TokenTable, "allowed_units", at_once)  # random weights would speak until they are stopped
    monkeypatch.setattr(ReplyGuard, "check_speech", lambda self, text, units, unit_rate=25.0: rates.append(unit_rate))
    spoken = Spoken()
    spoken.wishes = []
    session = Scheduler(loaded(tiny_vq_checkpoint, spoken)).open()
    for _ in range(2):  # the guard does not look at a first reply
        list(session.ask("Hello."))
    assert rates and set(rates) == {12.5}
    assert {wish.unit_rate for wish in spoken.wishes} == {12.5}
