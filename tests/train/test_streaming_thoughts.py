"""GLM-4-Voice's stages on converted sets: shares of the tokens, replies in turns with two losses, dropout."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, GlmConfig, LlamaConfig

from emova.core.config import load_config, save_config, shipped_configs
from emova.core.errors import InputError
from emova.model import EmovaConfig, EmovaProcessor
from emova.model.building import ModelConfig, ProjectorShape, TextShape
from emova.reply.interleaved import InterleavedReply, Ratio
from emova.vision.towers import VisionConfig
from emova_data.records.records import Draft, Record, message, text
from emova_data.sources.convert import ConvertConfig, convert
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.core.schedule import schedule
from emova_train.data.examples import ANSWER, NOTHING, STYLE, UNITS
from emova_train.data.interleaved import InterleavedConfig
from emova_train.data.pack_reader import PackReader, ShardConfig
from emova_train.data.records import RecordConfig, RecordRenderer
from emova_train.data.shards import Raw, find_mixture, find_set, read_shard
from emova_train.stages.config import InitConfig, StageConfig
from emova_train.stages.dropout import drop_hidden_states
from emova_train.stages.program import train
from emova_train.stages.start import build
from tests.train.fixtures_sets import heard, spoken, written

SHIPPED = [name for name in shipped_configs() if name.startswith("sets/glm-voice/")]
PAPER = InterleavedConfig(Ratio(13, 26))


def recording(number: int) -> Record:
    part = {"type": "audio", "audio": "flac", "units": [(number * 7 + at) % 4096 for at in range(20)]}
    return Record(f"r{number}", [message("document", part)], (), {"task": "recording"})  # type: ignore[arg-type]


def document(number: int) -> Record:
    units = {"type": "units", "units": [(number + at) % 4096 for at in range(12)], "text": "on the mat"}
    parts = [text(f"The cat number {number} sat "), units, text(" and slept.")]
    return Record(f"i{number}", [message("document", *parts)], (), {"task": "interleaved"})  # type: ignore[arg-type]


def plain(number: int) -> Record:
    return Record(f"t{number}", [message("document", text(f"This is text number {number}. " * (1 + number % 4)))])


def talked(number: int) -> Record:
    asked, answered = spoken(number).messages
    asked["content"] = [part for part in asked["content"] if part["type"] != "image"]
    answered["content"][0]["text"] = f"I am fine, and you are number {number}."
    return Record(f"d{number}", [asked, answered, *written(number).messages[:0]])


MAKERS = {"text": plain, "interleaved": document, "recordings-units": recording, "speech-units": heard,
          "dialogues": talked}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    root = tmp_path_factory.mktemp("glm-voice")
    for name, make in MAKERS.items():
        drafts = [Draft(str(number), lambda number=number, make=make: make(number)) for number in range(24)]  # type: ignore[misc]
        convert(drafts, root / "sets" / name, name, suffix=".jsonl", config=ConvertConfig(8))
    tiny_tokenizer.save_pretrained(root / "tokenizer")
    shape = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=1024)
    none = ProjectorShape(kind="none", pooling=1)
    save_config(ModelConfig(shape, VisionConfig(kind="none"), none), root / "model.yaml")
    return root


def tiny(name: str, folder: Path, **run: object) -> StageConfig:
    """A shipped nano config on the tiny sets, for four steps."""
    found = load_config(StageConfig, f"sets/glm-voice/{name}", kind="stages")
    changes = {
        "output_dir": str(folder / name), "max_steps": 4, "epochs": 0.0, "batch_size": 2, "threads": 1, "log_every": 1,
        "save_every": 2, "eval_every": 4, "precision": "fp32", **run,
    }  # fmt: skip
    if found.run.global_batch_size:
        changes["global_batch_size"] = 2
    init = InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer"))
    if name.endswith("finetune"):
        init = InitConfig(checkpoint=str(folder / "nano_pretrain" / "export"))
    shards = replace(found.data.shards, root=str(folder / "sets"), window=2, block=4)
    return replace(
        found, run=replace(found.run, **changes), init=init, data=replace(found.data, shards=shards),  # type: ignore[arg-type]
        samples=replace(found.samples, answers=1, spoken=1, losses_over=2, max_tokens=6, max_units=6),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finetuned(folder: Path) -> Mapping[str, float]:
    """Both stages in a row; what the second one's validation measured."""
    first = train(tiny("nano_pretrain", folder))
    assert first.steps == 4 and {"text", "units"} <= first.train_terms.keys()
    return train(tiny("nano_finetune", folder)).eval_terms


def test_both_stages_run_and_the_model_remembers_its_format(folder: Path, finetuned: Mapping[str, float]) -> None:
    assert {"answer", "style", "units", "spoken_talk_style"} <= finetuned.keys()
    export = folder / "nano_finetune" / "export"
    assert EmovaConfig.from_pretrained(export).reply_config == {
        "kind": "interleaved", "interleaved": {"text_tokens": 6, "units": 24}
    }  # fmt: skip
    taught = EmovaProcessor.from_pretrained(export).reply_format
    assert isinstance(taught, InterleavedReply) and taught.ratio == Ratio(6, 24)


def test_dropout_goes_on_to_the_same_bits(folder: Path, finetuned: Mapping[str, float]) -> None:
    whole, part = folder / "nano_finetune", folder / "part"
    shutil.copytree(whole, part)
    for late in (part / "checkpoint-4", part / "export"):
        shutil.rmtree(late)
    config = tiny("nano_finetune", folder, output_dir=str(part))
    assert config.hidden_dropout == 0.1
    train(replace(config, samples=replace(config.samples, answers=0)))
    states = [load_file(each / "checkpoint-4" / "model.safetensors") for each in (whole, part)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_dropout_is_for_training_alone(folder: Path) -> None:
    config = tiny("nano_pretrain", folder)
    plainly, _ = build(config)
    model, _ = build(replace(config, hidden_dropout=0.5))
    ids = torch.arange(40, 60)[None]
    for each in (plainly, model):
        each.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, plainly.eval()(ids).logits)
        assert torch.equal(plainly.train()(ids).logits, plainly(ids).logits)
        assert not torch.allclose(model.train()(ids).logits, model(ids).logits)
    assert model.state_dict().keys() == plainly.state_dict().keys()
    with pytest.raises(InputError, match="hidden_dropout=1"):
        replace(config, hidden_dropout=1.0)


@pytest.mark.parametrize("family", ["llama", "glm"])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_both_branches_of_every_layer_lose_that_share(family: str, rate: float) -> None:
    """Counted where a branch joins the stream, in the family of nano and in that of the paper's model."""
    shape: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(**shape) if family == "llama" else GlmConfig(**shape)
    language = AutoModel.from_config(config).train()
    drop_hidden_states(SimpleNamespace(model=SimpleNamespace(language_model=language)), rate)  # type: ignore[arg-type]
    given: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[torch.nn.Module, object, torch.Tensor | tuple[torch.Tensor, ...]], None]:
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            given[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for number, layer in enumerate(language.layers):
        for branch in ("self_attn", "mlp"):
            getattr(layer, branch).register_forward_hook(keep(f"{number} {branch}"))
    language(input_ids=torch.randint(1, 64, (4, 100)))
    assert len(given) == 4
    for output in given.values():
        assert abs(float((output == 0).float().mean()) - rate) < 0.03
    language.eval()(input_ids=torch.randint(1, 64, (1, 100)))
    assert all(float((output == 0).float().mean()) < 0.01 for output in given.values())


@pytest.mark.parametrize("kind", ["glm_4_voice", "interleaved"])
def test_each_reply_has_one_loss_in_a_pass_and_both_as_often_as_the_paper_says(
    folder: Path, tiny_processor, kind: str
) -> None:
    raws = [raw for raw in read_shard(find_set(folder / "sets", "dialogues").shards[0]) if isinstance(raw, Raw)]
    render = RecordRenderer(tiny_processor, RecordConfig(replies=kind, interleaved=PAPER), seed=3, max_tokens=500)
    whole = RecordRenderer(
        tiny_processor, RecordConfig(replies=kind, interleaved=replace(PAPER, text_share=0.0, speech_share=0.0)),
        seed=3, max_tokens=500,
    )  # fmt: skip
    first = []
    for raw in raws:
        both = whole.render(raw, 0)
        assert {ANSWER, UNITS} <= set(both.kinds.tolist())
        seen: Counter[str] = Counter()
        for epoch in range(24):
            made = render.render(raw, epoch)
            learnt = set(made.kinds[made.kinds != NOTHING].tolist()) & {ANSWER, STYLE, UNITS}
            said = made.kinds == UNITS
            assert np.array_equal(made.ids, both.ids)
            subtask = "speech" if UNITS in learnt else "text"
            assert learnt == ({UNITS} if subtask == "speech" else learnt - {UNITS}) and learnt
            assert not said.any() or (said == (both.kinds == UNITS)).all()
            seen[subtask] += 1
            if not epoch:
                first.append(subtask)
        assert seen == {"speech": 20, "text": 4}
    with pytest.raises(InputError, match="records.replies=json"):
        RecordConfig(replies="json")


def test_subtasks_fall_evenly_whatever_the_shares() -> None:
    for text_share, speech_share in ((0.25, 0.5), (0.0, 1.0), (1.0, 0.0), (1 / 3, 2 / 3), (0.1, 0.2)):
        config = InterleavedConfig(text_share=text_share, speech_share=speech_share)
        found = Counter(config.subtask_of_pass(number) for number in range(600))
        assert abs(found["text"] - 600 * text_share) <= 1 and abs(found["speech"] - 600 * speech_share) <= 1


def test_shares_of_the_tokens_are_kept_and_a_reader_goes_on_where_it_was(folder: Path, tiny_processor) -> None:
    shares = {"text": 0.3, "interleaved": 0.57, "recordings-units": 0.08, "speech-units": 0.05}
    mixture = find_mixture(folder / "sets", shares, of_tokens=True)
    config = ShardConfig(str(folder / "sets"), window=2, block=4, shares="tokens")

    def reader() -> PackReader:
        render = RecordRenderer(tiny_processor, RecordConfig(), seed=0, max_tokens=300)
        return PackReader(mixture, render, config, pack_tokens=300, seed=0, reader=0, readers=1)

    own, tokens = reader(), Counter[str]()
    packs = iter(own)
    for _ in range(60):
        for example in next(packs):
            tokens[example.task] += len(example)
    for name, share in shares.items():
        assert tokens[name] / tokens.total() == pytest.approx(share, abs=0.02)
    state = own.state()
    further = [[example.ids.tolist() for example in next(packs)] for _ in range(6)]
    again = reader()
    again.restore(state)
    rest = iter(again)
    assert further == [[example.ids.tolist() for example in next(rest)] for _ in range(6)]
    with pytest.raises(InputError, match="shares=tokens"):
        base = tiny("nano_pretrain", folder)
        replace(base, run=replace(base.run, global_batch_size=8))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_have_the_papers_numbers(name: str) -> None:
    config = load_config(StageConfig, name)
    run, records = config.run, config.data.shards.records
    model = torch.nn.Linear(2, 2)
    rates = schedule(torch.optim.AdamW(model.parameters(), lr=config.rates.llm), replace(run, max_steps=100), 100)
    assert run.schedule == "linear" and tuple(run.betas) == (0.9, 0.95) and run.warmup_ratio == 0
    assert config.rates.vision == config.rates.projector == 0 and run.output_dir.startswith("runs/")
    first = rates.get_last_lr()[0]
    for _ in range(100):
        rates.optimizer.step()
        rates.step()
    assert rates.get_last_lr()[0] == pytest.approx(first / 10)
    if "pretrain" in name:
        assert sum(config.data.sets.values()) == pytest.approx(1) and config.data.sets["text"] == 0.3
        assert config.data.shards.shares == "tokens"
    else:
        assert config.data.sets["dialogues"] == 24 and run.weight_decay == 0.1 and run.max_grad_norm == 1
        assert records.interleaved.text_share == 4 / 24 and records.interleaved.speech_share == 20 / 24
    if "nano" not in name:
        assert first == (6e-5 if "pretrain" in name else 1e-5) and config.data.pack_tokens == 8192
        assert config.hidden_dropout == (0.0 if "pretrain" in name else 0.5)
        assert "pretrain" in name or records.interleaved.ratio == Ratio(13, 26)
    assert run.parallel != ParallelConfig() or "nano" in name and isinstance(run, RunConfig)
