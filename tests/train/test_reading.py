"""Reading aloud trained alone: its forward pass is the model's, its rows mix nothing, and a resumed run is the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova.reply.format import SPEAK_PROMPT
from emova.speech.tokenizer.quantizers import FiniteScalarQuantizer
from emova_data.records.packed_units import pack_units, unpack_units
from emova_train.reading.config import GuideConfig, ReadingConfig
from emova_train.reading.digits import SharedDigits, digits_of_units
from emova_train.reading.language import Reader, looking_loss
from emova_train.reading.rows import NOTHING, fill_rows, lay, reading
from emova_train.reading.run import Run


def spoken(count, seed=0, text="How are you today? I am fine."):
    rng = np.random.default_rng(seed)
    for number in range(count):
        units = rng.integers(0, 4096, int(rng.integers(6, 30))).tolist()
        words = [[0, 3, 0.0, 2.5], [4, 7, 2.5, 4.0], [8, len(text), 4.0, float(len(units))]]
        yield {"id": f"r{number}", "text": text, "units": pack_units(units), "words": words}


@pytest.fixture()
def readings(tiny_tokenizer):
    ids_of = TokenIds.from_tokenizer(tiny_tokenizer)
    return [reading(row, tiny_tokenizer, ids_of) for row in spoken(5)]


def test_a_reading_is_what_the_processor_renders(tiny_tokenizer, tiny_processor):
    row = next(spoken(1))
    made = reading(row, tiny_tokenizer, TokenIds.from_tokenizer(tiny_tokenizer))
    messages = [
        {"role": "user", "content": [{"type": "text", "text": SPEAK_PROMPT + row["text"]}]},
        {"role": "assistant", "content": [{"type": "audio", "units": unpack_units(row["units"]).tolist()}]},
    ]
    rendered = tiny_processor.render_training(messages)
    assert made.ids.tolist() == list(rendered.input_ids)


def test_looks_point_at_the_word_that_is_said(tiny_tokenizer):
    row = next(spoken(1))
    made = reading(row, tiny_tokenizer, TokenIds.from_tokenizer(tiny_tokenizer))
    first, last = made.looks[made.said - 1]
    assert "How" in tiny_tokenizer.decode(made.ids[first:last])
    assert "you" not in tiny_tokenizer.decode(made.ids[first:last])
    assert (made.looks[: made.said - 1] == 0).all()
    assert (made.looks[:, 1] < made.said).all()


def test_rows_hold_every_sentence_once():
    lengths = np.random.default_rng(0).integers(5, 60, 200).tolist()
    rows = fill_rows(lengths, 64)
    assert sorted(number for row in rows for number in row) == list(range(200))
    assert all(sum(lengths[number] for number in row) <= 64 for row in rows)


def test_forward_is_that_of_transformers(tiny_model, readings):
    language_model = tiny_model.model.language_model
    batch = lay([readings[:3], readings[3:]], 160, 0)
    reader = Reader(language_model, (0, 10), 160, {0: 1, 1: 2})
    with torch.no_grad():
        hidden, _ = reader.hidden(
            torch.from_numpy(batch["ids"]), torch.from_numpy(batch["owners"]), torch.from_numpy(batch["looks"]),
            torch.float32,
        )  # fmt: skip
        for row, sentences in enumerate((readings[:3], readings[3:])):
            at = 0
            for each in sentences:
                alone = language_model(input_ids=torch.from_numpy(each.ids)[None]).last_hidden_state[0]
                torch.testing.assert_close(hidden[row, at : at + len(each)], alone, atol=1e-4, rtol=1e-4)
                at += len(each)


def test_targets_are_the_units_and_their_end(readings):
    batch = lay([readings[:2]], 160, 0)
    learnt = np.flatnonzero(batch["targets"][0] != NOTHING)
    first = readings[0]
    wanted = [*first.ids[first.said : -1], *readings[1].ids[readings[1].said : -1]]
    assert batch["targets"][0, learnt].tolist() == wanted
    assert (batch["targets"][0, learnt] == batch["ids"][0, learnt + 1]).all()


def test_looking_is_nothing_where_all_attention_is_right():
    looks = torch.tensor([[[2, 4], [0, 0]]])
    right = torch.tensor([[[-50.0, -50.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]]])
    assert float(looking_loss(right, looks)) == pytest.approx(0.0, abs=1e-4)
    even = torch.zeros(1, 2, 4)
    assert float(looking_loss(even, looks)) == pytest.approx(np.log(2), abs=1e-5)


@pytest.fixture()
def config(tmp_path, tiny_model, tiny_processor):
    checkpoint, shards = tmp_path / "checkpoint", tmp_path / "shards"
    tiny_model.save_pretrained(checkpoint)
    tiny_processor.save_pretrained(checkpoint)
    shards.mkdir()
    for number in range(3):
        lines = "".join(json.dumps(row) + "\n" for row in spoken(24, seed=number))
        (shards / f"aloud-{number:05d}.jsonl").write_text(lines, encoding="utf-8")

    def make(name, **changes):
        return ReadingConfig(
            output_dir=str(tmp_path / name), checkpoint=str(checkpoint), shards=str(shards), length=96, rows=2,
            warmup=2, guide=GuideConfig(heads={"1": 1}), eval_every=100, log_every=4, **changes,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("digits", [(), (8, 8, 8, 8)])
def test_a_resumed_run_ends_with_the_same_weights(config, optimizer, digits):
    whole = Run(config("whole", max_steps=9, optimizer=optimizer, digits=digits))
    whole.train()
    Run(config("parts", max_steps=4, optimizer=optimizer, digits=digits)).train()
    resumed = Run(config("parts", max_steps=9, optimizer=optimizer, digits=digits))
    assert resumed.step == 4
    resumed.train()
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(one, other, msg=name)
    for name in whole.mean:
        torch.testing.assert_close(whole.mean[name], resumed.mean[name], msg=name)


def test_a_units_digits_make_its_index():
    digits_US = digits_of_units((8, 5, 3))
    assert digits_US.shape == (120, 16) and (digits_US.sum(1) == 3).all()
    values = digits_US @ torch.tensor([*range(8), *range(0, 8 * 5, 8), *range(0, 40 * 3, 40)]).float()
    assert values.tolist() == list(range(120))


def test_the_digits_are_the_quantizers_own():
    quantizer = FiniteScalarQuantizer((8, 5, 3))
    codes_UC = quantizer.codes(torch.arange(120)[None])[0]
    digits_US = digits_of_units((8, 5, 3))
    for column, part in enumerate(digits_US.split([8, 5, 3], dim=1)):
        for value in range(part.shape[1]):
            assert len(codes_UC[part[:, value] == 1, column].unique()) == 1


def test_what_one_unit_learns_its_neighbours_learn():
    embedding = torch.nn.Parameter(torch.randn(130, 4, generator=torch.Generator().manual_seed(0)))
    before, shared = embedding.detach().clone(), SharedDigits(embedding, 10, 120, (8, 5, 3))
    embedding.grad = torch.zeros_like(embedding)
    embedding.grad[10] = 1.0  # of unit 0
    shared.collect()
    assert shared.vectors.grad is not None
    with torch.no_grad():
        shared.vectors.sub_(shared.vectors.grad)
    shared.fold()
    moved = (before - embedding.detach())[:, 0].round(decimals=4)
    assert moved[10] == 3 and moved[11] == 2 and moved[10 + 1 + 8 + 40] == 0  # as many as they have digits in common
    assert not moved[:10].any() and not shared.vectors.any()
    with pytest.raises(InputError, match="make 64 units"):
        SharedDigits(embedding, 10, 120, (8, 8))


def test_the_export_holds_the_mean_and_is_read(config):
    from emova.model import EmovaForConditionalGeneration

    run = Run(config("run", max_steps=6))
    run.train()
    found = EmovaForConditionalGeneration.from_pretrained(run.output / "export", local_files_only=True)
    for name, parameter in found.model.language_model.named_parameters():
        torch.testing.assert_close(parameter.float(), run.mean[name])


def test_new_shards_are_read_first(config, tmp_path):
    run = Run(config("run", max_steps=30))
    run.train()
    lines = "".join(json.dumps(row) + "\n" for row in spoken(24, seed=9))
    (tmp_path / "shards" / "aloud-00007.jsonl").write_text(lines, encoding="utf-8")
    again = Run(config("run", max_steps=200))
    batches = iter(again.stream)
    for _ in range(40):
        next(batches)
    assert again.stream.state.begun["aloud-00007.jsonl"] >= 1


def test_learning_lowers_the_loss(config):
    run = Run(config("run", max_steps=60, rate=5e-3))
    before = run.validate()
    run.train()
    assert run.last["loss"] < before["loss"]
