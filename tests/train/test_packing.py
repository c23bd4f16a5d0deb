"""Laws of packing: a packed loss is the mean over separate samples, kinds name what a token teaches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emova.core.errors import InputError
from emova.core.streams import run
from emova.reply.parser import collect
from emova.reply.stream import EventStream
from emova_train.data.examples import ANSWER, KINDS, NOTHING, PROMPT_TEXT, STYLE, UNITS, Example, runs
from emova_train.data.interleaved import InterleavedConfig
from emova_train.data.mixture import PackedMixture
from emova_train.data.packing import collate
from emova_train.data.recipe import read_recipe
from emova_train.stages.attention import PACKED_ATTENTION, packed_attention
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.tasks import TEACHER_FORCED_TASKS, ConversationConfig, Conversations
from tests.train.fixtures_recipe import write_recipe

TASKS = ("caption", "picture_text", "talk_text", "asr", "tts", "spoken_talk", "spoken_picture")
MIXTURE = dict.fromkeys((*TASKS, *TEACHER_FORCED_TASKS, "interleaved_talk", "interleaved_picture"), 1.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return read_recipe(write_recipe(tmp_path_factory.mktemp("data") / "nano"), "train")


@pytest.fixture()
def conversations(recipe, tiny_processor):
    return Conversations(recipe, tiny_processor, ConversationConfig(two_turns=0.5))


def pieces_of(conversations: Conversations, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [conversations.render(task.draw(rng), task.name) for task in conversations.tasks.values() for _ in range(2)]


@pytest.mark.parametrize("attention", [PACKED_ATTENTION, "sdpa"])
def test_packed_loss_is_the_mean_over_separate_samples(conversations, tiny_model, attention: str) -> None:
    examples = pieces_of(conversations)
    weights = LossWeights(prompt_units=0.2, prompt_text=0.1)
    total, share = torch.zeros(()), torch.zeros(())
    tiny_model.set_attn_implementation("sdpa")
    for each in examples:
        batch = collate([[each]], weights)
        # Alone, the model's ordinary causal forward: no packing is involved at all.
        pictures = {name: batch[name] for name in ("pixel_values", "image_grids") if name in batch}
        logits = tiny_model(input_ids=batch["input_ids"], **pictures).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[batch["keep"]], batch["targets"], reduction="none")
        total, share = total + (losses * batch["weights"]).sum(), share + batch["weights"].sum()
    tiny_model.set_attn_implementation(attention)
    packed = packed_loss(tiny_model, collate([examples[:5], examples[5:]], weights))
    assert torch.allclose(packed["loss"], total / share, rtol=1e-5)
    assert {"text", "transcript", "answer", "style", "units", "skeleton", "prompt_units"} <= packed.keys()


def test_a_sample_does_not_see_its_neighbours(conversations, tiny_model) -> None:
    first, second, third, *_ = pieces_of(conversations)
    tiny_model.set_attn_implementation(PACKED_ATTENTION)
    shift = len(first)

    def hidden(pack: list[Example]) -> torch.Tensor:
        batch = collate([pack], LossWeights())
        bounds = batch["cu_seq_lens"]
        pictures = {name: batch[name] for name in ("pixel_values", "image_grids") if name in batch}
        ids = {name: batch[name] for name in ("input_ids", "sequence_ids")}
        return tiny_model.model(**ids, **pictures, cu_seq_lens_q=bounds).last_hidden_state[0]

    with torch.no_grad():
        other = Example(np.where(first.ids < 200, 65, first.ids), first.kinds, first.pixel_values, first.grids, "")
        before, after = hidden([first, second, third]), hidden([other, second])
        assert not torch.allclose(before[:shift], after[:shift])
        assert torch.allclose(before[shift : shift + len(second)], after[shift:], atol=1e-5)


def test_bfloat16_attention_agrees_with_float32(conversations, tiny_model) -> None:
    pack = pieces_of(conversations)
    tiny_model.set_attn_implementation(PACKED_ATTENTION)
    with torch.no_grad():
        exact = packed_loss(tiny_model, collate([pack], LossWeights()))["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            rough = packed_loss(tiny_model, collate([pack], LossWeights()))["loss"]
    assert torch.allclose(exact, rough, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_kernel_for_all_sequences_agrees_with_one_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    bounds = torch.tensor([0, 5, 133, 134, 300], dtype=torch.int32, device="cuda")
    inputs = [
        torch.randn(1, heads, 300, 16, generator=generator).to("cuda", torch.bfloat16).requires_grad_()
        for heads in (4, 2, 2)
    ]
    results = []
    for longest in (None, 166):
        query, key, value = inputs
        attended, _ = packed_attention(None, query, key, value, None, cu_seq_lens_q=bounds, max_length_q=longest)
        weighted = attended.float() * torch.linspace(-1, 1, attended.numel(), device="cuda").view_as(attended)
        results.append([attended, *torch.autograd.grad(weighted.sum(), inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)


def test_kinds_name_what_each_token_teaches(conversations, tiny_processor) -> None:
    ids = tiny_processor.token_ids
    rng = np.random.default_rng(1)
    drawn = conversations.render(conversations.tasks["spoken_talk"].draw(rng))
    text = {
        kind: tiny_processor.tokenizer.decode(drawn.ids[drawn.kinds == number]) for number, kind in enumerate(KINDS)
    }
    exchange = next(each for each in conversations.spoken_talk if text["answer"].startswith(each.answer.split('"')[0]))
    assert text["transcript"] == exchange.question + '"'
    assert text["style"] == f'{exchange.emotion}"{exchange.pitch}"'
    said = drawn.ids[drawn.kinds == UNITS]
    assert said[-1] == ids.speech_end and all(ids.is_unit(int(token)) for token in said[:-1])
    heard = drawn.ids[drawn.kinds == KINDS.index("prompt_units")]
    assert len(heard) == len(exchange.question) and all(ids.is_unit(int(token)) for token in heard)
    assert drawn.ids[-1] == ids.end_of_turn and drawn.kinds[-1] != NOTHING


def test_thoughts_teach_text_or_speech(conversations, tiny_processor) -> None:
    """Over many samples both sub-tasks come up, each with its own half of the reply's tokens, of one exchange."""
    ids, table, seen = tiny_processor.token_ids, conversations.table, set()
    for seed in range(24):
        for task in ("interleaved_talk", "interleaved_picture"):
            sample = conversations.tasks[task].draw(np.random.default_rng(seed))
            drawn = conversations.render(sample)
            taught = drawn.ids[drawn.kinds >= 0]
            taught = taught[drawn.kinds[drawn.kinds >= 0] < KINDS.index("prompt_units")]
            units = np.asarray([ids.is_unit(int(token)) for token in taught])
            # The end of the last run is the voice's choice.
            subtask = "speech" if (units | (taught == ids.speech_end)).all() else "text"
            assert subtask == "speech" or not units.any()
            seen.add((task, subtask))
            (answer, *_), reply_format = sample.messages[2]["content"], conversations.reply_format(task)
            stream = EventStream(table, reply_format.parser("female"))
            reply = collect([event for part in run(stream, [[*answer["ids"], table.end_of_turn]]) for event in part])
            assert reply.units and reply.text in {each.answer for each in conversations.spoken_talk} | {
                each.answer for _, spoken in conversations.spoken_pictures for each in spoken
            }
            assert sample.messages[0]["content"] == reply_format.system_prompt
    assert len(seen) == 4
    with pytest.raises(InputError, match="shares"):
        InterleavedConfig(text_share=0.7, speech_share=0.7)


def test_prompts_may_be_sampled(conversations) -> None:
    pack = pieces_of(conversations)
    kinds = [collate([pack], LossWeights(prompt_units=1.0, prompt_share=share))["kinds"] for share in (1.0, 0.3)]
    heard = [int((each == KINDS.index("prompt_units")).sum()) for each in kinds]
    assert 0.1 < heard[1] / heard[0] < 0.5
    assert len(kinds[0]) - heard[0] == len(kinds[1]) - heard[1]


def test_two_turns_share_one_picture(conversations) -> None:
    for seed in range(30):
        sample = conversations.picture_reply(np.random.default_rng(seed))
        if len(sample.kinds) == 2:
            drawn = conversations.render(sample)
            assert len(drawn.grids) == 1
            return
    raise AssertionError("no sample had two turns")


def test_a_told_exchange_teaches_what_a_spoken_one_does_after_its_transcript(recipe, tiny_processor) -> None:
    conversations = Conversations(recipe, tiny_processor, ConversationConfig(turns=3, typed=0.5))
    exchanges = (*recipe.talk, *(each for picture in recipe.pictures for each in picture.exchanges))
    known = {(each.answer, each.emotion, each.pitch) for each in exchanges}
    first, units = tiny_processor.token_ids.first_unit, tiny_processor.token_ids.codebook_size
    for task in TEACHER_FORCED_TASKS:
        typed = set()
        for seed in range(8):
            sample = conversations.tasks[task].draw(np.random.default_rng(seed))
            drawn = conversations.render(sample, task)
            assert not ((drawn.ids >= first) & (drawn.ids < first + units)).any()
            assert set(drawn.kinds.tolist()) <= {NOTHING, ANSWER, STYLE, PROMPT_TEXT}
            taught = runs((drawn.kinds == ANSWER) | (drawn.kinds == STYLE))
            strings = [json.loads('"' + tiny_processor.tokenizer.decode(drawn.ids[a:b])) for a, b in taught]
            assert len(strings) == 3 * len(sample.kinds)
            assert set(zip(strings[::3], strings[1::3], strings[2::3], strict=True)) <= known
            typed |= {part["type"] for each in sample.messages if each["role"] == "user" for part in each["content"]}
        assert {"text", "audio"} <= typed


def test_plain_questions_may_follow_the_description_of_their_picture(recipe, tiny_processor) -> None:
    for share in (0.0, 1.0):
        conversations = Conversations(recipe, tiny_processor, ConversationConfig(turns=2, described=share))
        sample = conversations.picture_text(np.random.default_rng(1))
        answers = [message["content"] for message in sample.messages if message["role"] == "assistant"]
        captions = {picture.caption for picture in recipe.pictures}
        assert (answers[0] in captions) == bool(share) and not captions & set(answers[1:])
        assert len(sample.kinds) == len(answers) and len(conversations.render(sample).grids) == 1


def test_what_has_to_be_looked_up_is_told_in_another_order_and_asked_as_often_as_wanted(recipe, tiny_processor) -> None:
    conversations = Conversations(recipe, tiny_processor, ConversationConfig(listed=1.0))
    listed = {picture.caption: picture for picture in recipe.pictures if picture.reordered}
    assert 0 < len(listed) < len(recipe.pictures)
    told = conversations.tasks["caption_reordered"].draw(np.random.default_rng(1))
    assert told.messages[-1]["content"] in {text for picture in listed.values() for text in picture.reordered}
    answers = {exchange.answer for picture in listed.values() for exchange in picture.exchanges}
    for seed in range(8):
        sample = conversations.picture_text(np.random.default_rng(seed))
        assert {each["content"] for each in sample.messages if each["role"] == "assistant"} <= answers


def test_an_unspoken_reply_is_the_whole_one_up_to_its_last_units(recipe, tiny_processor) -> None:
    for task in ("spoken_talk", "spoken_picture"):
        whole, cut = (
            Conversations(recipe, tiny_processor, ConversationConfig(two_turns=1.0, unspoken=share))
            for share in (0.0, 1.0)
        )
        for seed in range(4):
            full, short = (each.render(each.tasks[task].draw(np.random.default_rng(seed))) for each in (whole, cut))
            assert np.array_equal(full.ids[: len(short)], short.ids)
            assert np.array_equal(full.kinds[: len(short)], short.kinds)
            assert full.kinds[len(short)] == UNITS and short.kinds[-1] == KINDS.index("skeleton")
            rest = full.kinds[len(short) :]
            assert np.flatnonzero(rest == UNITS)[-1] == (rest == UNITS).sum() - 1


def test_misheard_units_stay_close(recipe, tiny_processor) -> None:
    noisy = Conversations(recipe, tiny_processor, ConversationConfig(unit_noise=0.5))
    units = np.arange(4096).astype(np.uint16)
    heard = np.asarray(noisy._hear(units, np.random.default_rng(0))["units"])
    digits = [np.stack([part // 8**place % 8 for place in range(4)]) for part in (units.astype(int), heard)]
    steps = np.abs(digits[0] - digits[1]).sum(axis=0)
    assert steps.max() == 1 and 0.45 < steps.mean() < 0.55


def test_stretched_units_keep_their_order_and_about_their_number(recipe, tiny_processor) -> None:
    stretched = Conversations(recipe, tiny_processor, ConversationConfig(unit_stretch=0.2))
    heard = np.asarray(stretched._hear(np.arange(4000).astype(np.uint16), np.random.default_rng(0))["units"])
    assert (np.diff(heard) >= 0).all() and 3800 < len(heard) < 4200
    assert 0.08 < 1 - len(np.unique(heard)) / 4000 < 0.12


def test_a_pack_is_a_function_of_its_place(conversations) -> None:
    def packs() -> PackedMixture:
        return PackedMixture(conversations, MIXTURE, pack_tokens=400, max_tokens=300, size=10, seed=5)

    one, other = packs().sample(3, 1), packs().sample(3, 1)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))
    different = packs().sample(3, 2)
    assert len(one) != len(different) or any(len(a) != len(b) for a, b in zip(one, different, strict=True))
    assert sum(map(len, one)) >= 400 and max(map(len, one)) <= 300


def test_mixtures_are_checked(conversations, tiny_processor, recipe) -> None:
    with pytest.raises(InputError, match="poetry is no task"):
        conversations.chosen({"poetry": 1.0})
    with pytest.raises(InputError, match="every weight is 0"):
        conversations.chosen({"asr": 0.0})
    from dataclasses import replace

    empty = Conversations(replace(recipe, talk=()), tiny_processor, ConversationConfig())
    with pytest.raises(InputError, match="spoken_talk has no data"):
        empty.chosen({"spoken_talk": 1.0, "asr": 1.0})


def test_missing_units_are_named(tmp_path: Path) -> None:
    root = write_recipe(tmp_path / "nano")
    (root / "units" / "answer.jsonl").unlink()
    with pytest.raises(InputError, match="answer.jsonl: missing"):
        read_recipe(root, "train")
    assert read_recipe(root, "train", speech=False).pictures
