"""Laws of the CTC over heard units: which words belong to which speech, and that it is torch's loss of each alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from emova.core.errors import InputError
from emova_train.core.mfu import step_cost
from emova_train.data.examples import PROMPT_UNITS, TRANSCRIPT, Example, runs
from emova_train.data.packing import collate
from emova_train.data.recipe import read_recipe
from emova_train.stages.attention import PACKED_ATTENTION
from emova_train.stages.losses.auxiliary import AuxiliaryLoss
from emova_train.stages.losses.ctc import CTC, CTCConfig, ctc_loss, heard_positions, heard_spans
from emova_train.stages.losses.grounding import GroundingConfig
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.registry import LossesConfig, build_losses
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.start import build
from emova_train.stages.tasks import ConversationConfig, Conversations
from tests.train.fixtures_recipe import QUESTION, SIZE, TALK, write_recipe
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)

LISTENS = CTCConfig(weight=0.5, layer=1)
LOSSES = [CTC(LISTENS)]
ASKED = {QUESTION, SIZE, *(question for question, *_ in TALK)}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return read_recipe(write_recipe(tmp_path_factory.mktemp("data") / "nano"), "train")


def drawn(recipe, processor, task: str, seed: int = 0, **changes: float) -> Example:
    conversations = Conversations(recipe, processor, ConversationConfig(**{"typed": 0.0, **changes}))  # type: ignore[arg-type]
    return conversations.render(conversations.tasks[task].draw(np.random.default_rng(seed)), task)


def pack(recipe, processor) -> list[Example]:
    """Speech, a picture alone, two spoken turns, a typed question, text."""
    return [
        drawn(recipe, processor, "asr"),
        drawn(recipe, processor, "caption"),
        drawn(recipe, processor, "spoken_picture", two_turns=1.0),
        drawn(recipe, processor, "spoken_talk", typed=1.0),
        drawn(recipe, processor, "talk_text"),
        drawn(recipe, processor, "spoken_talk", seed=3),
    ]


def built(model, processor, config: CTCConfig) -> list[AuxiliaryLoss]:
    return build_losses(LossesConfig(ctc=config), model, processor)


def words(processor, ids: np.ndarray) -> str:
    return processor.tokenizer.decode(ids)


def test_runs_are_where_true_values_stand_together() -> None:
    assert runs([True, True, False, True]).tolist() == [[0, 2], [3, 4]]
    assert runs([]).tolist() == runs([False]).tolist() == []


@pytest.mark.parametrize(("task", "changes", "turns"), [
    ("asr", {}, 1),
    ("spoken_talk", {}, 1),
    ("spoken_talk", {"unspoken": 1.0}, 1),
    ("spoken_picture", {"two_turns": 1.0}, 2),
    ("spoken_talk", {"typed": 1.0}, 0),
    ("spoken_picture", {"typed": 1.0, "two_turns": 1.0}, 0),
    ("interleaved_talk", {}, 0),
    ("tts", {}, 0),
    ("talk_text", {}, 0),
    ("picture_text", {}, 0),
])  # fmt: skip
def test_each_stretch_of_speech_has_its_transcript(recipe, tiny_processor, task: str, changes, turns: int) -> None:
    ids = tiny_processor.token_ids
    for seed in range(4):
        made = drawn(recipe, tiny_processor, task, seed, **changes)
        spans = heard_spans(made.kinds == PROMPT_UNITS, made.kinds == TRANSCRIPT)
        assert spans.shape == (turns, 4)
        for heard, ended, first, last in spans.tolist():
            assert all(ids.is_unit(int(token)) for token in made.ids[heard : ended - 1])
            assert made.ids[ended - 1] == ids.speech_end and made.ids[heard - 1] == ids.speech_start
            text = words(tiny_processor, made.ids[first:last])
            assert text in ASKED and ended - 1 - heard == len(text)  # the fixture speaks a unit a letter
            assert made.kinds[last] == TRANSCRIPT and text not in words(tiny_processor, made.ids[first : last + 2])[1:]


def test_spans_find_their_places_in_a_pack(recipe, tiny_processor) -> None:
    examples = pack(recipe, tiny_processor)
    row = collate([examples[:2], examples[2:]], LossWeights(), LOSSES)
    found = [
        (row["input_ids"][0, first:ended].tolist(), row["input_ids"][0, start:end].tolist())
        for first, ended, start, end in row["ctc_spans"].tolist()
    ]
    alone = [
        (each.ids[first:ended].tolist(), each.ids[start:end].tolist())
        for each in examples
        for first, ended, start, end in heard_spans(each.kinds == PROMPT_UNITS, each.kinds == TRANSCRIPT)
    ]
    assert found == alone and len(found) == 4
    assert len(heard_positions(row["ctc_spans"])) == sum(len(units) for units, _ in found)
    assert len(heard_positions(row["ctc_spans"][:0])) == 0


def test_the_loss_is_torchs_of_each_utterance_alone(recipe, tiny_model, tiny_processor) -> None:
    examples = pack(recipe, tiny_processor)
    total, count = torch.zeros(()), 0
    seen: list[torch.Tensor] = []
    hook = tiny_model.model.language_model.layers[LISTENS.layer - 1].register_forward_hook(
        lambda module, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    blank = tiny_model.config.pad_token_id
    tiny_model.set_attn_implementation("sdpa")
    for each in examples:
        batch = collate([[each]], LossWeights(), LOSSES)
        pictures = {name: batch[name] for name in ("pixel_values", "image_grids") if name in batch}
        seen.clear()
        tiny_model(input_ids=batch["input_ids"], **pictures)
        for first, ended, start, end in batch["ctc_spans"].tolist():
            middle = tiny_model.model.language_model.norm(seen[0].reshape(-1, seen[0].shape[-1])[first:ended])
            said = tiny_model.lm_head(middle)[:, : blank + 1].log_softmax(-1)
            target = batch["input_ids"][0, start:end]
            lengths = torch.tensor([ended - first]), torch.tensor([end - start])
            one = functional.ctc_loss(said, target, *lengths, blank, reduction="sum")
            total, count = total + one, count + end - start
    hook.remove()
    assert count and torch.isfinite(total)
    tiny_model.set_attn_implementation(PACKED_ATTENTION)
    terms = packed_loss(tiny_model, collate([examples], LossWeights(), LOSSES), LOSSES)
    assert torch.allclose(terms["ctc"], total / count, rtol=1e-4)


def test_it_joins_the_loss_in_training_alone(recipe, tiny_model, tiny_processor) -> None:
    batch = collate([pack(recipe, tiny_processor)], LossWeights(), LOSSES)
    tiny_model.set_attn_implementation(PACKED_ATTENTION)
    for training in (False, True):
        tiny_model.train(training)
        plain = packed_loss(tiny_model, batch)
        off = packed_loss(tiny_model, batch, built(tiny_model, tiny_processor, replace(LISTENS, weight=0.0)))
        assert off.keys() == plain.keys() and all(torch.equal(off[name], plain[name]) for name in plain)
        both = packed_loss(tiny_model, batch, built(tiny_model, tiny_processor, LISTENS))
        added = LISTENS.weight * both["ctc"] if training else 0.0
        assert torch.allclose(both["loss"], plain["loss"] + added)
        assert all(torch.allclose(both[name], plain[name]) for name in plain if name != "loss")


def test_where_nothing_is_heard_it_changes_nothing(recipe, tiny_model, tiny_processor) -> None:
    batch = collate(
        [[drawn(recipe, tiny_processor, "caption"), drawn(recipe, tiny_processor, "tts")]], LossWeights(), LOSSES
    )
    model = tiny_model.train()
    model.set_attn_implementation(PACKED_ATTENTION)
    plain, both = packed_loss(model, batch), packed_loss(model, batch, LOSSES)
    assert both.keys() == plain.keys() and torch.allclose(both["loss"], plain["loss"])
    both["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_its_gradient_reaches_what_comes_before_its_layer(recipe, tiny_model, tiny_processor) -> None:
    batch = collate([[drawn(recipe, tiny_processor, "asr")]], LossWeights(), LOSSES)
    model = tiny_model.train()
    model.set_attn_implementation(PACKED_ATTENTION)

    def gradients(losses: list[CTC]) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        packed_loss(model, batch, losses)["loss"].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain, both = gradients([]), gradients(LOSSES)
    changed = {name for name, gradient in both.items() if not torch.allclose(gradient, plain[name], atol=1e-7)}
    assert any("layers.0.self_attn.q_proj" in name for name in changed)
    assert any("embed_tokens" in name for name in changed) and any(
        name.endswith("model.norm.weight") for name in changed
    )
    assert not any("layers.1." in name for name in changed)


def test_speech_shorter_than_its_words_costs_nothing() -> None:
    logits = torch.zeros(5, 9, requires_grad=True)
    spans = torch.tensor([[0, 2, 4, 9], [2, 5, 9, 10]])
    ids = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
    loss = ctc_loss(logits, ids, spans)
    loss.backward()
    alone = functional.ctc_loss(
        logits[2:].log_softmax(-1), ids[9:], torch.tensor([3]), torch.tensor([1]), 8, reduction="sum"
    )
    assert torch.allclose(loss, alone / 6)
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and not logits.grad[:2].any()


def test_its_products_are_counted(recipe, tiny_model, tiny_processor) -> None:
    batch = collate(
        [[drawn(recipe, tiny_processor, "asr"), drawn(recipe, tiny_processor, "spoken_talk")]], LossWeights(), LOSSES
    )
    model = tiny_model.train()
    model.model.vision_tower.requires_grad_(False)
    model.set_attn_implementation(PACKED_ATTENTION)
    with FlopCounterMode(display=False) as counter:
        packed_loss(model, batch, LOSSES)["loss"].backward()
    ours = replace(step_cost(model), llm_attention=0, tower_attention=0).flops(batch, len(LOSSES[0].asks(batch)[0][1]))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("layer", [2, 4])
def test_the_layer_is_one_of_the_models(folder, layer: int) -> None:  # noqa: F811
    listens, looks = CTCConfig(weight=0.5, layer=layer), GroundingConfig(weight=0.5, layer=1, word_layer=2)
    with pytest.raises(InputError, match=rf"losses.ctc.layer={layer}: the language model has 2 layers .* give 1 to 1"):
        build(stage(folder, "deep", losses=LossesConfig(ctc=listens)))
    with pytest.raises(InputError, match=r"grounding.word_layer=2: .* give 1 to 1, or losses.grounding.weight=0"):
        build(stage(folder, "deep", losses=LossesConfig(grounding=looks)))
    build(stage(folder, "deep", losses=LossesConfig(ctc=replace(listens, layer=1))))
    build(stage(folder, "deep", losses=LossesConfig(ctc=replace(listens, weight=0.0))))


@pytest.mark.parametrize("values", [{"weight": -0.1}, {"layer": 0}])
def test_values_that_mean_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="losses.ctc"):
        CTCConfig(**values)  # type: ignore[arg-type]
