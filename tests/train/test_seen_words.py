"""Laws of the words that a middle layer sees in a picture: they lie where the marks lie, and they can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emova.errors import InputError
from tests.train.fixtures_recipe import write_recipe
from train.conversations import ConversationConfig, Conversations
from train.packing import LossWeights, collate, packed_loss
from train.recipe_data import read_recipe
from train.seen_words import PLACE, SeenWordsConfig, seen_words_loss


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return read_recipe(write_recipe(tmp_path_factory.mktemp("data") / "nano"), "train")


@pytest.fixture()
def conversations(recipe, tiny_processor) -> Conversations:
    return Conversations(recipe, tiny_processor, ConversationConfig(listed=1.0, turns=2))


def test_places_name_the_marks_that_lie_there_and_words_what_is_beside_them(conversations, tiny_processor) -> None:
    sample = conversations.caption_reordered(np.random.default_rng(0))
    drawn = conversations.render(sample)
    seen, tokenizer = drawn.seen, tiny_processor.tokenizer
    side, places = tiny_processor.image_processor.tile_side, np.flatnonzero(drawn.ids == tiny_processor.image_token_id)
    assert sample.picture is not None
    words = {mark.text: tokenizer.encode(f" {mark.text}", add_special_tokens=False) for mark in sample.picture.marks}
    here = seen.kinds == PLACE
    left = {int(places[row * side + column]) for row in range(side) for column in range(-(-side // 2))}
    assert set(seen.positions[here].tolist()) <= left and len(set(seen.positions[here].tolist())) >= side
    assert set(seen.tokens[here].tolist()) == {token for tokens in words.values() for token in tokens}
    for position in set(seen.positions.tolist()):
        assert seen.shares[seen.positions == position].sum() == pytest.approx(1)
    single = {tokens[0]: text for text, tokens in words.items() if len(tokens) == 1}
    for position, token in zip(seen.positions[~here], seen.tokens[~here], strict=True):
        assert int(drawn.ids[position]) in single and int(token) in single and int(token) != int(drawn.ids[position])
        assert position > places[-1]
    unmarked = next(each for each in conversations.recipe.pictures if not each.marks)
    none = conversations.render(type(sample)(conversations._described(unmarked, np.random.default_rng(0)), (0,)))
    assert not len(none.seen.kinds)


def test_packing_moves_what_is_seen_with_its_conversation(conversations, tiny_model) -> None:
    rng = np.random.default_rng(1)
    pieces = [conversations.render(conversations.picture_text(rng)) for _ in range(3)]
    looks, total, count = SeenWordsConfig(weight=1.0, layer=1, word_layer=2), torch.zeros(()), 0
    tiny_model.train()
    for each in pieces:
        terms = packed_loss(tiny_model, collate([[each]], LossWeights()), None, looks)
        positions = len(set(each.seen.positions.tolist()))
        total, count = total + terms["seen_words"] * positions, count + positions
    packed = packed_loss(tiny_model, collate([pieces[:1], pieces[1:]], LossWeights()), None, looks)
    assert torch.allclose(packed["seen_words"], total / count, rtol=1e-4)
    plain = packed_loss(tiny_model, collate([pieces], LossWeights()))
    assert torch.allclose(packed["loss"], plain["loss"] + packed["seen_words"], rtol=1e-4) and "seen_words" not in plain


def test_it_is_learnt(conversations, tiny_model) -> None:
    rng = np.random.default_rng(2)
    batch = collate([[conversations.render(conversations.caption_reordered(rng)) for _ in range(4)]], LossWeights())
    looks = SeenWordsConfig(weight=1.0, layer=1, word_layer=1)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=3e-3)
    losses = []
    tiny_model.train()
    for _ in range(24):
        terms = packed_loss(tiny_model, batch, None, looks)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["seen_words"]))
    assert losses[-1] < 0.7 * losses[0]


def test_the_loss_is_least_where_the_words_are_named() -> None:
    logits = torch.full((2, 5), -9.0)
    logits[0, 1] = logits[0, 3] = logits[1, 4] = 9.0
    place, tokens, shares = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 4]), torch.tensor([0.5, 0.5, 1.0])
    assert float(seen_words_loss(logits, place, tokens, shares)) == pytest.approx(np.log(2) / 2, abs=1e-3)
    assert float(seen_words_loss(logits, place, tokens.flip(0), shares)) > 5


def test_impossible_layers_are_refused() -> None:
    for wrong in ({"weight": -1.0}, {"layer": 0}, {"layer": 4, "word_layer": 3}):
        with pytest.raises(InputError, match="seen_words"):
            SeenWordsConfig(**wrong)
