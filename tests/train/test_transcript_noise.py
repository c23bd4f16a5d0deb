"""Misheard transcripts teach the answer and nothing about what was said."""

from __future__ import annotations

import numpy as np

from emova.core.streams import run
from emova.reply.parser import collect
from emova.reply.stream import EventStream
from emova_train.data.examples import ANSWER, STYLE, TRANSCRIPT, UNITS
from emova_train.data.packing import collate
from emova_train.data.recipe import read_recipe
from emova_train.stages.losses.ctc import CTC, CTCConfig
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.tasks import ConversationConfig, Conversations
from emova_train.stages.transcript_noise import TranscriptNoise
from tests.train.fixtures_recipe import TALK, write_recipe

TEXTS = [question for question, *_ in TALK]


def test_words_are_lost_doubled_or_others_of_the_vocabulary() -> None:
    mishear, text = TranscriptNoise(TEXTS), "Somebody took my bike today"
    made = [mishear(text, np.random.default_rng(seed)) for seed in range(400)]
    assert made == [mishear(text, np.random.default_rng(seed)) for seed in range(400)]
    known = {word for each in TEXTS for word in each.split()} | set(text.split())
    assert all(each and set(each.split()) <= known for each in made)
    lengths = {len(each.split()) for each in made}
    assert min(lengths) < 5 < max(lengths)
    assert 0.1 < np.mean([each == text for each in made]) < 0.5
    assert mishear("Hm", np.random.default_rng(0)) and mishear("", np.random.default_rng(0)) == ""


def test_a_misheard_sample_asks_for_the_right_answer(tmp_path, tiny_processor) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "nano"), "train")
    config = ConversationConfig(transcript_noise=1.0, typed=0.0, two_turns=0.0)
    conversations, answers = Conversations(recipe, tiny_processor, config), dict(row[:2] for row in TALK)
    wrong = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample = conversations.talk_reply(rng)
        example = conversations.render(sample)
        kinds = set(example.kinds.tolist())
        assert TRANSCRIPT not in kinds and {ANSWER, STYLE, UNITS} <= kinds
        assert (
            len(collate([[example]], LossWeights(), [CTC(CTCConfig(0.5))])["ctc_spans"]) == 0
        )  # nor does CTC learn from it
        reply = sample.messages[-1]["content"][0]["ids"]
        stream = EventStream(conversations.table, conversations.spoken.parser())
        whole = [*reply, conversations.table.end_of_turn]
        found = collect([event for part in run(stream, [whole]) for event in part])
        asked = next(question for question, answer in answers.items() if answer == found.text)
        wrong += found.transcript != asked
    assert wrong > 5
    typed = Conversations(recipe, tiny_processor, ConversationConfig(transcript_noise=1.0, typed=1.0))
    assert TRANSCRIPT in typed.render(typed.talk_reply(np.random.default_rng(0))).kinds
