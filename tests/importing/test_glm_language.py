"""GLM-4-Voice whole: its language model as its authors' class computes it, its prompts and replies, and a tiny release
from the import to streamed, served answers, and back."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.cli.main import main
from emova.core.errors import InputError
from emova.core.tokens import unit_token
from emova.engine.causal_lm import CausalLM
from emova.engine.decoder import EngineDecoder
from emova.events import AudioChunk, Done, TextDelta
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.glm_voice import REQUEST, GLMVoiceReply
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.parser import ReplyDone, SpokenReply, StyleChosen, UnitsDelta, merge_deltas
from emova.reply.parser import TextDelta as Text
from emova.reply.stream import EventStream
from emova.session.scheduler import Scheduler
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from tests.importing.fixtures_glm import chatglm, language_state, write_language_release, write_speech_releases
from tests.importing.test_emova_tokenizer import voices

LIMITS = ReplyLimits(max_transcript_tokens=10, max_text_tokens=30, max_units=80)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = write_speech_releases(tmp_path_factory.mktemp("glm") / "release")
    write_language_release(folder / "language")
    return folder


def bring(release: Path, out: Path, *options: str, code: int = 0) -> None:
    line = ["import", "glm-4-voice", str(release / "tokenizer"), "--decoder", str(release / "decoder")]
    words = [*options] if "--language-model" in options else ["--language-model", str(release / "language"), *options]
    assert main([*line, *words, "--out", str(out), "--quiet"]) == code


@pytest.fixture(scope="module")
def folder(release) -> Path:
    bring(release, release / "imported")
    return release / "imported"


@pytest.fixture(scope="module")
def assistant(folder) -> Assistant:
    made = Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))
    assert isinstance(made.voice.detokenizer, FlowHiFTDetokenizer)
    voice = made.voice.detokenizer
    voice.config = voice.flow.config = replace(voice.config, steps=2)  # as good as ten for what is tested here
    return made


# --- the model --------------------------------------------------------------------------------------------------------
def test_scores_equal_those_of_the_releases_own_class(assistant) -> None:
    ids = [5, 300, 17, 17, 402, 330, 40, 3]
    with torch.no_grad():
        found = assistant.parts.model(input_ids=torch.tensor([ids])).logits[0]
    expected = chatglm(ids, language_state())[:, : assistant.parts.model.config.token_count]
    assert (found[:, : expected.shape[1]] - expected).abs().max() < 1e-4
    assert isinstance(assistant.decoder, EngineDecoder) and isinstance(assistant.decoder.engine.llama, CausalLM)


def test_every_token_keeps_its_id_and_text_its_tokens(assistant, release) -> None:
    words = assistant.parts.processor.tokenizer
    said = json.loads((release / "language" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    for index, token in said.items():
        name = token["content"].replace("<|audio_", unit_token(0)[:-3])
        assert words.convert_tokens_to_ids(name) == int(index)
    assert words.model_max_length and len(words) == 1 + max(map(int, said))
    for text in ("Hello, user!", "你好 🙂\n\n  tab\t", "streaming_transcription"):
        assert words.decode(words.encode(text, add_special_tokens=False)) == text


# --- prompts ----------------------------------------------------------------------------------------------------------
def test_prompts_are_the_releases_own(assistant) -> None:
    """Two turns as the demo's code joins them: what a turn ends with is what the next one begins with."""
    said = [
        {"role": "system", "content": REQUEST},
        {"role": "user", "content": [{"type": "audio", "units": [5, 63, 0]}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And now?"},
    ]
    words = assistant.parts.processor.tokenizer
    text = words.decode(list(assistant.prompt(said).ids), skip_special_tokens=False)
    asks = "<|assistant|>streaming_transcription\n"
    heard = "<|begin_of_audio|><|speech_5|><|speech_63|><|speech_0|><|end_of_audio|>"
    expected = f"[gMASK]<sop><|system|>\n{REQUEST}<|user|>\n{heard}{asks}Yes.<|user|>\nAnd now?{asks}"
    assert text == expected
    alone = words.decode(list(assistant.prompt(said[3:]).ids), skip_special_tokens=False)
    assert alone == f"[gMASK]<sop><|user|>\nAnd now?{asks}"


def test_a_dialogue_reads_what_its_messages_render(assistant) -> None:
    talk = assistant.conversation()
    talk.chat(audio=voices(1.0)[0].numpy())
    talk.chat(text="And now?")
    turns = talk.history.turns
    ids = [*talk.history.opening().ids, *(token for turn in turns for token in (*turn.question.ids, *turn.answer))]
    text = assistant.parts.processor.tokenizer.decode(ids, skip_special_tokens=False)
    assert text.startswith(f"[gMASK]<sop><|system|>\n{REQUEST}<|user|>\n<|begin_of_audio|>")
    assert text.count("<|user|>") == 3 and text.endswith("<|user|>") and "<|user|>\nAnd now?<|assistant|>" in text


@pytest.mark.parametrize("forged", ["<|user|>", "<|assistant|>", "[gMASK]", "<|speech_5|>", "<|audio_5|>", "<sop>"])
def test_what_a_user_types_is_never_a_control_token(assistant, forged) -> None:
    words = assistant.parts.processor.tokenizer
    ids = assistant.parts.processor.encode_text(f"Hi {forged}\n{forged}")
    assert not set(ids) & set(words.all_special_ids) and words.decode(ids) == f"Hi {forged}\n{forged}"


def test_a_picture_is_refused_in_one_line(assistant) -> None:
    with pytest.raises(InputError, match="sees none"):
        assistant.chat(text="What is it?", image=Image.new("RGB", (30, 30)))


def test_a_realtime_answer_without_sound_has_more_than_the_first_block(assistant) -> None:
    """Its text comes between the units, so these may not be cut away."""
    from emova_app.server.realtime.settings import Settings

    form, settings = assistant.reply_format, Settings(assistant.styles, "female", modalities=("text",))
    limits = settings.limits(LIMITS, form.words_end)
    session = Scheduler(assistant).open()
    done = [event for event in session.ask("Hello, and what else?", limits=limits) if isinstance(event, Done)]
    session.close()
    assert done and done[0].reply.text == assistant.chat(text="Hello, and what else?").text
    assert len(assistant.table.encode(done[0].reply.text)) > 13 or len(done[0].reply.units) > 1


def test_the_demo_proposes_no_question_about_a_picture(assistant) -> None:
    from emova_app.demo.model_card import sees
    from emova_app.demo.views import talk

    assert not sees(assistant)
    blind, seeing = (talk(assistant.styles, "", "", eyes) for eyes in (False, True))
    assert 0 < blind.count("data-example=") < seeing.count("data-example=") and "data:image" in seeing
    assert "data:image" not in blind


# --- replies ----------------------------------------------------------------------------------------------------------
def read(table: TokenTable, pieces: list[list[int]]) -> list:
    stream = EventStream(table, GLMVoiceReply().parser())
    events = [event for part in pieces for event in stream.step(part)]
    return [*events, *stream.finish()]


@pytest.mark.parametrize(("letters", "units"), [(40, 90), (13, 26), (13, 30), (5, 3), (26, 20), (200, 30), (4, 0)])
def test_a_reply_is_allowed_by_its_grammar_and_read_however_it_is_cut(assistant, letters, units) -> None:
    table, form = assistant.table, assistant.reply_format
    text = "".join(random.Random(letters).choices("qxzj", k=letters))  # a token a letter
    assert len(table.encode(text)) == letters
    reply = SpokenReply("", text, "neutral", "normal", tuple(n % 64 for n in range(units)))
    ids = form.encode(reply, table)
    if units >= 26 and letters > 13:
        kinds = [table.unit_of[token] >= 0 for token in ids]
        assert kinds[:39] == [False] * 13 + [True] * 26
    whole = merge_deltas(read(table, [ids]))
    joined = "".join(event.text for event in whole if isinstance(event, Text))
    heard = tuple(unit for event in whole if isinstance(event, UnitsDelta) for unit in event.units)
    assert (joined, heard) == (text, reply.units) and whole[-1] == ReplyDone(None)
    assert isinstance(whole[0], StyleChosen)
    for size in (1, 7):
        assert merge_deltas(read(table, [ids[at : at + size] for at in range(0, len(ids), size)])) == whole
    if units >= 26 * ((letters - 1) // 13) + 1:
        grammar = form.grammar(table, ReplyConstraints(limits=ReplyLimits(max_text_tokens=400, max_units=400)))
        for token in ids:
            assert token in grammar.allowed()
            grammar.advance(token)
        assert grammar.done


def walk(grammar: Grammar, seed: int) -> list[int]:
    choose = random.Random(seed)
    ids: list[int] = []
    while not grammar.done:
        forced = grammar.take_forced()
        ids += forced
        if not grammar.done and not forced:
            token = int(choose.choice(grammar.allowed().tolist()))
            grammar.advance(token)
            ids.append(token)
    return ids


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_grammar_allows_is_a_reply(assistant, seed) -> None:
    """Blocks of at most 13 and, while there is text, of 26; characters whose bytes lie in two blocks are whole."""
    table, form = assistant.table, assistant.reply_format
    limits = ReplyLimits(max_text_tokens=20 + seed, max_units=90)
    ids = walk(form.grammar(table, ReplyConstraints(limits=limits)), seed)
    events = read(table, [ids])
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert events[-1] == ReplyDone(None) and "\ufffd" not in text and text
    assert sum(table.unit_of[token] >= 0 for token in ids) <= 90
    runs: list[list[int]] = []
    for token in ids[:-1]:
        speaks = bool(table.unit_of[token] >= 0)
        if not runs or (table.unit_of[runs[-1][0]] >= 0) != speaks:
            runs.append([])
        runs[-1].append(token)
    texts, sounds = runs[::2], runs[1::2]
    assert all(len(run) == 13 for run in texts[:-1]) and all(len(run) == 26 for run in sounds[: len(texts) - 1])


def test_a_text_that_is_given_is_said_and_no_other(assistant) -> None:
    grammar = assistant.reply_format.reading(assistant.table, "Good morning to all of you, and good night! " * 2, 300)
    ids = walk(grammar, 3)
    events = read(assistant.table, [ids])
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert text == "Good morning to all of you, and good night! " * 2
    assert assistant.pronounce("Good morning")


# --- the whole --------------------------------------------------------------------------------------------------------
def test_it_hears_answers_and_remembers(assistant) -> None:
    question = voices(1.0)[0].numpy()
    talk = assistant.conversation()
    events = list(talk.stream(audio=question))
    whole = assistant.conversation().chat(audio=question)
    assert isinstance(events[-1], Done)
    assert events[-1].reply.text == whole.text and events[-1].reply.units == whole.units and whole.units
    sound = np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])
    assert sound.shape == whole.audio.shape and np.abs(sound - whole.audio).max() < 1e-3
    assert talk.chat(text="And now?").text and len(talk.history) == 2


def test_the_first_sound_comes_after_the_first_block(assistant, monkeypatch) -> None:
    """Not after the text: what follows the first 13 tokens and 26 units is written while the voice speaks."""
    grammar = assistant.reply_format.grammar

    def longer(table, wish):
        made = grammar(table, wish)
        made._segments[0]._given = table.encode("This is said in several blocks, one after the other one. " * 2)
        made._segments[0]._max_text = len(made._segments[0]._given)
        return made

    monkeypatch.setattr(assistant.reply_format, "grammar", longer)
    session = Scheduler(assistant).open()
    session.hear(voices(1.0)[0].numpy())
    events = list(session.ask())
    first = next(index for index, event in enumerate(events) if isinstance(event, AudioChunk))
    later = "".join(event.text for event in events[first:] if isinstance(event, TextDelta))
    assert isinstance(events[-1], Done) and len(later) > 20
    session.close()


def test_a_session_hears_bit_by_bit_and_answers_the_same(assistant) -> None:
    question = voices(1.0)[0].numpy()
    whole = assistant.conversation().chat(audio=question)
    session = Scheduler(assistant).open()
    for part in np.array_split(question, 7):
        session.hear(part)
    for _ in range(2):  # and once more, after the first turn was read
        done = [event for event in session.ask(None) if isinstance(event, Done)]
        assert done and done[0].reply.units
        if len(session.history) == 1:
            assert done[0].reply.units == whole.units and done[0].reply.text == whole.text
        session.hear(question)
    session.close()


def test_the_server_and_the_commands_use_it(assistant, folder, tmp_path, capsys) -> None:
    from fastapi.testclient import TestClient

    from emova_app.server.app import create_app
    from emova_app.server.config import ServerConfig

    config = ServerConfig(model_name="glm")
    body = {"model": "glm", "messages": [{"role": "user", "content": "Hello"}]}
    longer = {**body, "messages": [{"role": "user", "content": "Hello, and what else?"}]}
    spoken = {**body, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    with TestClient(create_app(config, assistant), base_url=f"http://127.0.0.1:{config.port}") as client:
        answer = client.post("/v1/chat/completions", json=spoken)
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
        silent = [client.post("/v1/chat/completions", json=asked).json() for asked in (body, longer)]
    for reply, question in zip(silent, ("Hello", "Hello, and what else?"), strict=True):  # all blocks of the text
        message = reply["choices"][0]["message"]
        assert message["content"] == assistant.chat(text=question).text != "" and message["audio"] is None
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["audio"]["data"]
    assert streamed.status_code == 200 and streamed.text.rstrip().endswith("[DONE]")
    assert main(["info", "--model", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kinds"]["vision"] == "none" and facts["kinds"]["reply"] == "glm_4_voice"
    out = tmp_path / "answer.wav"
    assert main(["chat", "--text", "Hello", "--model", str(folder), "--out", str(out), "--quiet"]) == 0
    assert out.stat().st_size > 1000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "GLM-4-Voice Model License" in card and "language model: " in card


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".json", ".safetensors")
    }


def test_there_and_back_and_there_again_is_the_same(folder, release, tmp_path) -> None:
    out = tmp_path / "released"
    assert main(["export", "glm-4-voice", "--model", str(folder), "--out", str(out), "--quiet"]) == 0
    from safetensors.torch import load_file

    words = load_file(out / "language_model" / "model-00001.safetensors")
    theirs = {name: tensor for name, tensor in language_state().items() if "inv_freq" not in name}
    assert set(words) == set(theirs)
    count = json.loads((folder / "config.json").read_text())["token_count"]
    for name, tensor in theirs.items():
        rows = count if len(tensor) == 768 else len(tensor)  # rows of no token are of no use
        assert torch.equal(words[name][:rows], tensor[:rows])
    assert (out / "language_model" / "tokenizer.model").read_bytes() == (
        release / "language" / "tokenizer.model"
    ).read_bytes()
    bring(out, tmp_path / "again", "--language-model", str(out / "language_model"))
    assert files(folder) == files(tmp_path / "again")


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "llama"}, "model_type is llama"),
        ({"original_rope": False}, "original_rope is False"),
        ({"num_layers": "two"}, "does not give num_layers"),
        ({"num_layers": 3}, "lacks tensor transformer.encoder.layers.2"),
        ({"num_layers": 1}, "is none that the language model"),
        ({"hidden_size": 64}, "has shape"),
        ({"multi_query_group_num": 1}, "has shape"),
    ],
)
def test_another_language_model_is_refused_by_what_differs(release, tmp_path, capsys, change, told) -> None:
    other = tmp_path / "language"
    other.mkdir()
    for path in (release / "language").iterdir():
        (other / path.name).symlink_to(path)
    said = json.loads((other / "config.json").read_text())
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps({**said, **change}))
    bring(release, tmp_path / "out", "--language-model", str(other), code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.model", "", "no table of byte strings"),
        ("tokenizer.model", "!!! 0\n", "no table of byte strings"),
        ("tokenizer.model", None, "missing"),
        ("tokenizer_config.json", "{}", "lacks"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}', "no table of added tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"999999999": {"content": "x"}}}', "no table"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": {"content": "x"}}}', "two tokens have one id"),
    ],
)
def test_words_that_are_damaged(release, tmp_path, capsys, name, content, told) -> None:
    other = tmp_path / "language"
    other.mkdir()
    for path in (release / "language").iterdir():
        if path.name != name:
            (other / path.name).symlink_to(path)
    if content is not None:
        (other / name).write_text(content)
    bring(release, tmp_path / "out", "--language-model", str(other), code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line and not (tmp_path / "out").exists()


def test_units_of_another_tokenizer_are_refused(release, tmp_path, capsys) -> None:
    write_language_release(tmp_path / "language", units=63)
    bring(release, tmp_path / "out", "--language-model", str(tmp_path / "language"), code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "63 units" in line and not (tmp_path / "out").exists()
