"""Any language model of transformers grown by units: it keeps its words, its template and its scores, talks through
the engine, and trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.cli.main import main
from emova.core.config import load_config, save_config
from emova.engine.decoder import EngineDecoder
from emova.events import Done
from emova.model.building import ModelConfig, TextShape
from emova.reply.format import ReplyLimits
from emova.session.scheduler import Scheduler
from emova_train.stages.config import InitConfig, RatesConfig
from emova_train.stages.program import train
from emova_train.stages.start import build
from tests.fixtures_families import FAMILIES, write_family
from tests.fixtures_speech import BABBLE
from tests.importing.test_emova_tokenizer import voices
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)

LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=20)
SOME = ("qwen2", "llama3", "mistral", "gemma2", "glm4")


def rows(model: Any) -> Tensor:
    """The embedding's."""
    return model.get_input_embeddings().weight


@pytest.fixture(scope="module", params=SOME)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(name, tmp_path_factory) -> Path:
    return write_family(tmp_path_factory.mktemp("family") / name, FAMILIES[name], tied=name in ("llama3", "gemma2"))


@pytest.fixture(scope="module")
def grown(source, tiny_checkpoint) -> Path:
    out = source.parent / "grown"
    assert (
        main(["import", "causal-lm", str(source), "--speech", str(tiny_checkpoint), "--out", str(out), "--quiet"]) == 0
    )
    return out


@pytest.fixture(scope="module")
def assistant(grown) -> Assistant:
    return Assistant.from_pretrained(grown, config=AssistantConfig(reply_limits=LIMITS, reply_guard=BABBLE))


def test_it_scores_its_own_words_as_before(name, source, assistant) -> None:
    theirs, words = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    encoded: Any = words.apply_chat_template(
        [{"role": "user", "content": "Is the ball red?"}], add_generation_prompt=True, return_dict=True
    )
    ids = encoded["input_ids"]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids])).logits[0]
        found = assistant.parts.model(input_ids=torch.tensor([ids])).logits[0]
    assert (found[:, : len(words)] - expected[:, : len(words)]).abs().max() < 1e-5
    asked = list(assistant.prompt([{"role": "user", "content": "Is the ball red?"}]).ids)
    tail = assistant.parts.processor.encode_text("\n") if name == "glm4" else []
    assert asked == [*ids, *tail]


def test_new_rows_are_the_mean_of_the_words(source, grown, assistant) -> None:
    theirs = rows(AutoModelForCausalLM.from_pretrained(source))
    own, count = rows(assistant.parts.model), len(AutoTokenizer.from_pretrained(source))
    assert torch.equal(own[:count], theirs[:count]) and len(own) % 128 == 0
    assert (own[count:] - theirs[:count].mean(dim=0)).abs().max() < 1e-6


def test_it_talks_and_a_dialogue_reads_what_its_messages_render(assistant) -> None:
    assert isinstance(assistant.decoder, EngineDecoder)
    talk = assistant.conversation()
    first = talk.chat(audio=voices(1.0)[0].numpy())
    assert first.units and talk.chat(text="And now?").units
    render = assistant.parts.processor
    said: list[dict] = [{"role": "system", "content": assistant.reply_format.system_prompt}]
    for turn, question in zip(
        talk.history.turns, ({"type": "audio"}, {"type": "text", "text": "And now?"}), strict=True
    ):
        units = assistant.token_ids.to_units(turn.question.ids)
        said.append({"role": "user", "content": [{"units": units, **question}]})
        answer = turn.answer[: turn.answer.index(assistant.token_ids.end_of_turn)]
        said.append({"role": "assistant", "content": [{"type": "tokens", "ids": answer}]})
    ids = [*talk.history.opening().ids]
    for turn in talk.history.turns:
        ids += [*turn.question.ids, *turn.answer]
    assert tuple(ids) == render.render_training(said).input_ids


def test_a_session_answers_as_a_conversation_does_in_several_turns(assistant) -> None:
    sound, session, talk = voices(1.0)[0].numpy(), Scheduler(assistant).open(), assistant.conversation()
    for _ in range(2):
        session.hear(sound)
        done = list(session.ask())[-1]
        assert isinstance(done, Done) and done.reply.units == talk.chat(audio=sound).units
    session.close()


def test_the_card_states_the_licence(source, tiny_checkpoint, tmp_path, capsys) -> None:
    other = tmp_path / "model"
    other.mkdir()
    for path in source.iterdir():
        (other / path.name).symlink_to(path)
    (other / "README.md").write_text("---\nlicense: other\nlicense_name: the-ball-licence\n---\n# A model\n")
    line = ["import", "causal-lm", str(other), "--speech", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert main([*line, "--json", "--quiet"]) == 0
    assert "the-ball-licence" in json.loads(capsys.readouterr().out)["licences"][0]
    assert "the-ball-licence" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "word"), [("qwen2", "Qwen Research License"), ("llama3", "Llama Community"), ("glm4", "GLM"),
                       ("gemma", "Gemma Terms"), ("mistral", "Apache-2.0")],
)  # fmt: skip
def test_without_a_card_the_familys_licence_is_told(kind, word, tiny_checkpoint, tmp_path, capsys) -> None:
    source = write_family(tmp_path / "model", FAMILIES[kind])
    line = ["import", "causal-lm", str(source), "--speech", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert main([*line, "--json", "--quiet"]) == 0
    licences = json.loads(capsys.readouterr().out)["licences"]
    assert word in licences[0] and "speech parts" in licences[1]


# --- training ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["qwen3", "gemma"])
def test_a_stage_begins_with_the_grown_checkpoint(kind, tiny_checkpoint, folder, tmp_path) -> None:  # noqa: F811
    source = write_family(tmp_path / "model", FAMILIES[kind])
    out = tmp_path / "grown"
    assert (
        main(["import", "causal-lm", str(source), "--speech", str(tiny_checkpoint), "--out", str(out), "--quiet"]) == 0
    )
    base = stage(folder, f"grown-{kind}")
    config = replace(
        base, init=InitConfig(checkpoint=str(out)), rates=RatesConfig(llm=1e-2),
        data=replace(base.data, mixture={"asr": 1.0, "tts": 1.0}),
    )  # fmt: skip
    train(config)
    export = folder / f"grown-{kind}" / "export"
    assert json.loads((export / "config.json").read_text())["text_config"]["model_type"].startswith(kind)
    model, processor = build(replace(config, init=InitConfig(checkpoint=str(export))))
    asks = [{"role": "user", "content": "Is it red?"}]
    theirs = AutoTokenizer.from_pretrained(source)
    expected = theirs.apply_chat_template(asks, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert processor.apply_chat_template(asks, add_generation_prompt=True) == expected
    assert model.config.vision.kind == "none"


def test_a_stage_begins_with_a_model_and_eyes_by_its_config(folder, tmp_path) -> None:  # noqa: F811
    """``text.pretrained`` of another family than LLaMA, its tokenizer by ``emova train tokenizer --extend``."""
    source = write_family(tmp_path / "model", FAMILIES["qwen3"])
    line = ["train", "tokenizer", "--extend", str(source), "--out", str(tmp_path / "tokenizer")]
    assert main(line) == 0
    shapes = load_config(ModelConfig, folder / "model.yaml")
    save_config(replace(shapes, text=TextShape(pretrained=str(source))), tmp_path / "model.yaml")
    init = InitConfig(model=str(tmp_path / "model.yaml"), tokenizer=str(tmp_path / "tokenizer"))
    data = replace(stage(folder, "eyes").data, mixture={"caption": 1.0, "asr": 1.0, "tts": 1.0})
    config = stage(folder, "eyes", init=init, rates=RatesConfig(projector=1e-2, llm=1e-2), data=data)
    model, processor = build(config)
    theirs = rows(AutoModelForCausalLM.from_pretrained(source))
    count = len(AutoTokenizer.from_pretrained(source))
    own = rows(model)
    assert torch.equal(own[:count], theirs[:count]) and not torch.equal(own[count], theirs[count])
    asks = [{"role": "user", "content": "Is it red?"}]
    assert "<|im_start|>user\nIs it red?<|im_end|>" in processor.apply_chat_template(asks)
    train(config)
