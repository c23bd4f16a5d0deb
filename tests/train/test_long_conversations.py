"""Conversations of many turns: each reply is learnt as if it stood alone, one picture at most, within their room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_train.data.examples import NOTHING, PROMPT_TEXT, PROMPT_UNITS
from emova_train.data.recipe import read_recipe
from emova_train.stages.long_conversations import LongConfig, plan
from emova_train.stages.tasks import ConversationConfig, Conversations
from tests.train.fixtures_recipe import write_recipe

LONG = LongConfig(turns=6, pictured=0.7, positions=4000)


@pytest.fixture()
def recipe(tmp_path):
    return read_recipe(write_recipe(tmp_path / "recipe"), "train")


@pytest.fixture()
def conversations(recipe, tiny_processor):
    return Conversations(recipe, tiny_processor, ConversationConfig(long=LONG))


def samples(conversations, count=60):
    return [conversations.long_talk(np.random.default_rng(seed)) for seed in range(count)]


def test_all_lengths_are_had_and_roles_alternate(conversations):
    made = samples(conversations)
    assert {len(sample.kinds) for sample in made} == set(range(2, 7))
    for sample in made:
        roles = [message["role"] for message in sample.messages]
        assert roles == ["system", *["user", "assistant"] * len(sample.kinds)]


def test_questions_about_a_picture_come_after_it(conversations):
    of_pictures = {exchange.question for _, spoken in conversations.spoken_pictures for exchange in spoken}
    later = 0
    for seed in range(200):
        shown = False
        for turn in plan(LONG, conversations.spoken_talk, conversations.spoken_pictures, np.random.default_rng(seed)):
            assert not (shown and turn.picture), "a second picture"
            later += shown and turn.exchange.question in of_pictures
            shown = shown or turn.picture is not None
            assert shown or turn.exchange.question not in of_pictures
    assert later > 20


def test_every_reply_is_learnt_as_if_alone(conversations):
    for sample in samples(conversations, count=20):
        made = conversations.render(sample)
        own = (made.kinds != NOTHING) & (made.kinds != PROMPT_UNITS) & (made.kinds != PROMPT_TEXT)
        wanted: list[int] = []
        for message in sample.messages:
            if message["role"] == "assistant":
                wanted += [*message["content"][0]["ids"], conversations.processor.token_ids.end_of_turn]
        assert made.ids[own].tolist() == wanted


def test_a_conversation_ends_where_its_room_does(conversations, recipe, tiny_processor):
    narrow = Conversations(recipe, tiny_processor, ConversationConfig(long=replace(LONG, positions=420)))
    lengths = [len(narrow.render(sample)) for sample in samples(narrow)]
    wide = [len(conversations.render(sample)) for sample in samples(conversations)]
    assert max(lengths) <= 440
    assert max(wide) > max(lengths)


def test_a_sample_follows_from_its_seed(conversations):
    one, other = (conversations.long_talk(np.random.default_rng(5)) for _ in range(2))
    assert conversations.render(one).ids.tolist() == conversations.render(other).ids.tolist()


@pytest.mark.parametrize("wrong", [{"turns": 1}, {"typed": 1.5}, {"pictured": -0.1}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        LongConfig(**wrong)
