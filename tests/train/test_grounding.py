"""Laws of the words that a middle layer sees in a picture: they lie where the regions lie, and they can be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from emova.core.errors import InputError
from emova_train.data.examples import Example
from emova_train.data.packing import collate
from emova_train.data.recipe import read_recipe
from emova_train.stages.losses.auxiliary import Ask, AuxiliaryLoss, HiddenStates
from emova_train.stages.losses.grounding import LOOK, PLACE, WORD, Grounding, GroundingConfig, naming_loss
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.tasks import ConversationConfig, Conversations
from tests.train.fixtures_recipe import write_recipe

LOOKS = GroundingConfig(weight=1.0, layer=1, word_layer=2, heads=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return read_recipe(write_recipe(tmp_path_factory.mktemp("data") / "nano"), "train")


@pytest.fixture()
def conversations(recipe, tiny_processor) -> Conversations:
    return Conversations(recipe, tiny_processor, ConversationConfig(listed=1.0, turns=2))


def test_places_name_the_marks_that_lie_there_and_words_what_is_beside_them(conversations, tiny_processor) -> None:
    sample = conversations.caption_reordered(np.random.default_rng(0))
    drawn = conversations.render(sample)
    grounding, tokenizer = Grounding(LOOKS, tiny_processor), tiny_processor.tokenizer
    seen = grounding.of(drawn)
    side, places = tiny_processor.image_processor.tile_side, np.flatnonzero(drawn.ids == tiny_processor.image_token_id)
    assert sample.picture is not None
    words = {
        region.text: tokenizer.encode(f" {region.text}", add_special_tokens=False) for region in sample.picture.regions
    }
    here = seen.kinds == PLACE
    left = {int(places[row * side + column]) for row in range(side) for column in range(-(-side // 2))}
    assert set(seen.positions[here].tolist()) <= left and len(set(seen.positions[here].tolist())) >= side
    assert set(seen.targets[here].tolist()) == {token for tokens in words.values() for token in tokens}
    for kind, position in set(zip(seen.kinds.tolist(), seen.positions.tolist(), strict=True)):
        assert seen.shares[(seen.kinds == kind) & (seen.positions == position)].sum() == pytest.approx(1)
    said, look = seen.kinds == WORD, seen.kinds == LOOK
    beside = {tokens[-1]: set(words[other]) for text, tokens in words.items() for other in words if other != text}
    assert {int(drawn.ids[position]) for position in seen.positions[said]} == set(beside)  # each is in the caption
    for position in set(seen.positions[said].tolist()):
        assert position > places[-1]
        assert set(seen.targets[said & (seen.positions == position)].tolist()) == beside[int(drawn.ids[position])]
    assert set(seen.positions[look].tolist()) == set(seen.positions[said].tolist())
    for position, place in zip(seen.positions[look], seen.targets[look], strict=True):
        assert int(drawn.ids[position]) in seen.targets[here & (seen.positions == place)]  # the word is drawn there
    unmarked = next(each for each in conversations.recipe.pictures if not each.regions)
    none = conversations.render(type(sample)(conversations._described(unmarked, np.random.default_rng(0)), (0,)))
    assert not len(grounding.of(none).kinds)


def test_packing_moves_what_is_seen_with_its_conversation(conversations, tiny_model, tiny_processor) -> None:
    rng = np.random.default_rng(1)
    examples = [conversations.render(conversations.caption_reordered(rng)) for _ in range(8)]
    looks, total, count = [Grounding(LOOKS, tiny_processor)], torch.zeros(3), [0, 0, 0]
    names = {PLACE: "grounding_places", WORD: "grounding_words", LOOK: "grounding_attention"}
    tiny_model.train()
    for each in examples:
        terms = packed_loss(tiny_model, collate([[each]], LossWeights(), looks), looks)
        for kind, name in names.items():
            seen = looks[0].of(each)
            positions = len(set(seen.positions[seen.kinds == kind].tolist()))
            if positions:
                total[kind], count[kind] = total[kind] + terms[name] * positions, count[kind] + positions
    packed = packed_loss(tiny_model, collate([examples[:3], examples[3:]], LossWeights(), looks), looks)
    for kind, name in names.items():
        assert torch.allclose(packed[name], total[kind] / count[kind], rtol=1e-4)
    plain = packed_loss(tiny_model, collate([examples], LossWeights()))
    beside = sum(packed[name] for name in names.values())
    assert torch.allclose(packed["loss"], plain["loss"] + beside, rtol=1e-4) and not names.values() & plain.keys()


def test_it_is_learnt(conversations, tiny_model, tiny_processor) -> None:
    rng = np.random.default_rng(2)
    looks = [Grounding(GroundingConfig(weight=1.0, layer=1, word_layer=1), tiny_processor)]
    examples = [conversations.render(conversations.caption_reordered(rng)) for _ in range(4)]
    batch = collate([examples], LossWeights(), looks)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=3e-3)
    losses = []
    tiny_model.train()
    for _ in range(24):
        terms = packed_loss(tiny_model, batch, looks)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append([float(terms[name]) for name in ("grounding_places", "grounding_words", "grounding_attention")])
    assert all(last < 0.7 * first for first, last in zip(losses[0], losses[-1], strict=True))


def test_the_heads_that_look_are_those_that_attend(conversations, tiny_model, tiny_processor) -> None:
    looks = [Grounding(LOOKS, tiny_processor)]
    example = conversations.render(conversations.caption_reordered(np.random.default_rng(3)))
    batch = collate([[example]], LossWeights(), looks)
    tiny_model.eval()
    found = packed_loss(tiny_model, batch, looks)["grounding_attention"]
    tiny_model.set_attn_implementation("eager")
    pictures = {name: batch[name] for name in ("pixel_values", "image_grids")}
    shares_HNN = tiny_model.model(input_ids=batch["input_ids"], output_attentions=True, **pictures).attentions[1][0]
    entries = batch["grounding"][batch["grounding"][:, 0] == LOOK]
    wanted = [
        -shares_HNN[:2, position, entries[entries[:, 1] == position, 2]].sum(-1).log()
        for position in torch.unique(entries[:, 1])
    ]
    assert torch.allclose(found, torch.stack(wanted).mean(), rtol=1e-4)


def test_the_loss_is_least_where_the_words_are_named() -> None:
    logits = torch.full((2, 5), -9.0)
    logits[0, 1] = logits[0, 3] = logits[1, 4] = 9.0
    place, tokens, shares = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 4]), torch.tensor([0.5, 0.5, 1.0])
    assert float(naming_loss(logits, place, tokens, shares)) == pytest.approx(np.log(2) / 2, abs=1e-3)
    assert float(naming_loss(logits, place, tokens.flip(0), shares)) > 5


def test_impossible_layers_are_refused() -> None:
    for wrong in ({"weight": -1.0}, {"layer": 0}, {"layer": 4, "word_layer": 3}, {"heads": -1}):
        with pytest.raises(InputError, match="losses.grounding"):
            GroundingConfig(**wrong)


def test_a_cut_conversation_sees_what_is_left_of_it(conversations, tiny_processor) -> None:
    drawn = conversations.render(conversations.caption_reordered(np.random.default_rng(4)))
    grounding = Grounding(LOOKS, tiny_processor)
    whole = grounding.of(drawn)
    length = int(whole.positions.max())  # the last word is cut off
    cut, kept = grounding.of(replace(drawn, ids=drawn.ids[:length])), whole.positions < length
    assert 0 < len(cut.kinds) < len(whole.kinds)
    for name in ("kinds", "positions", "targets", "shares"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name)[kept])


class Shape(AuxiliaryLoss):
    """A loss that nothing but this file knows."""

    name, weight = "shape", 0.25

    def targets(self, examples: Sequence[Example], bounds: np.ndarray) -> dict[str, torch.Tensor]:
        return {"shape_firsts": torch.from_numpy(bounds[:-1])}

    def asks(self, batch: Mapping[str, torch.Tensor]) -> list[Ask]:
        return [(1, batch["shape_firsts"])]

    def __call__(self, states: HiddenStates, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"shape": states.logits[0].float().square().mean(), "shape_size": states.layers[1].float().abs().mean()}


def test_any_loss_joins_by_its_protocol_alone(conversations, tiny_model, tiny_processor) -> None:
    rng = np.random.default_rng(5)
    examples = [conversations.render(conversations.caption_reordered(rng)) for _ in range(3)]
    losses: list[AuxiliaryLoss] = [Grounding(LOOKS, tiny_processor), Shape()]
    batch = collate([examples], LossWeights(), losses)
    assert batch["shape_firsts"].tolist() == batch["cu_seq_lens"][:-1].tolist()
    tiny_model.train()
    plain, both = (packed_loss(tiny_model, batch, each) for each in (losses[:1], losses))
    assert both.keys() - plain.keys() == {"shape", "shape_size"}
    assert torch.allclose(both["loss"], plain["loss"] + 0.25 * (both["shape"] + both["shape_size"]))
