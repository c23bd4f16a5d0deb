"""The EMOVA release's model: picture tokens as its authors' code gives them, the backbone as transformers runs it, and
a whole tiny release from the import to a streamed, served answer."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.importing import source
from emova.checkpoint.loading import SHIPPED
from emova.cli.main import main
from emova.core.errors import InputError
from emova.decoding.loop import Decoder
from emova.decoding.protocol import Prompt
from emova.engine.causal_lm import CausalLM
from emova.engine.decoder import EngineDecoder
from emova.engine.scores import ScoreStream
from emova.events import AudioChunk, Done
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.parser import ReplyDone, SpokenReply, StyleChosen, TextDelta, TranscriptDelta, UnitsDelta, merge_deltas
from emova.reply.released import CHAT, SPEAK, SYSTEM, TRANSCRIBE, ReleasedReply
from emova.reply.stream import EventStream
from emova.session.scheduler import Scheduler
from emova.speech.style import Style
from emova.vision.native_resolution import NativeConfig, patches, resized
from tests.importing.fixtures_model import make_state, write_model_release
from tests.importing.official import TOKENIZER_CONFIG, emova_tokenizer, of, write_release
from tests.importing.test_emova_tokenizer import voices

LIMITS = ReplyLimits(max_transcript_tokens=10, max_text_tokens=20, max_units=30)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    release = write_release(folder / "release", emova_tokenizer(), TOKENIZER_CONFIG)
    assert main(["import", "emova-tokenizer", str(release), "--out", str(folder / "imported"), "--quiet"]) == 0
    return folder / "imported"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_model_release(tmp_path_factory.mktemp("model") / "release")


@pytest.fixture(scope="module")
def folder(release, speech):
    out = release.parent / "imported"
    line = ["import", "emova-hf", str(release), "--speech", str(speech), "--out", str(out), "--quiet"]
    assert main(line) == 0
    return out


@pytest.fixture(scope="module")
def assistant(folder) -> Assistant:
    return Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))


def picture(name: str = "picture_b") -> Image.Image:
    return Image.fromarray(of("vit")[name].numpy())


# --- golden, and parity -----------------------------------------------------------------------------------------------
def test_pictures_are_prepared_as_the_release_does() -> None:
    facts = of("vit")
    grid, cut = patches(picture(), NativeConfig())
    assert [1, 2 * grid.rows, 2 * grid.columns] == facts["grid_thw_b"][0].tolist()
    assert (cut[:2] - facts["pixel_values_b"]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((100, 60), (112, 56)), ((20, 37), (56, 84)), ((300, 450), (308, 448)), ((14, 70), (28, 140)),
        ((42, 1000), (56, 1008)), ((3000, 4000), (2996, 4004)),
    ],
)  # fmt: skip
def test_sizes_equal_those_of_the_release(given, expected) -> None:
    assert resized(given[0], given[1], NativeConfig(max_pixels=16_384 * 28 * 28)) == expected
    assert resized(300, 450, NativeConfig(max_pixels=24 * 28 * 28)) == (84, 140)
    with pytest.raises(InputError, match="200 times"):
        resized(30, 9000, NativeConfig())


def test_visual_tokens_equal_those_of_the_release(assistant) -> None:
    model = assistant.parts.model
    grid, cut = patches(picture(), NativeConfig())
    with torch.no_grad():
        tokens = model.get_image_features(cut, torch.tensor([[grid.rows, grid.columns]]))
    assert (tokens - of("vit")["projected"]).abs().max() < 1e-4


def test_the_backbone_equals_transformers_own(assistant, release) -> None:
    """Units by their token's name, wherever the release put them: the scores are the same ones."""
    state, config = make_state()
    assert isinstance(config, Qwen2Config)
    theirs = Qwen2ForCausalLM(config).eval()
    theirs.load_state_dict(
        {name: tensor for name, tensor in state.items() if "vision" not in name and "mm_" not in name}
    )
    their_words, our_words = AutoTokenizer.from_pretrained(release), assistant.parts.processor.tokenizer
    tokens = ["<|im_start|>", "s", "y", "<|speech_7|>", "<|speech_4095|>", "<|speech_0|>", "<|im_end|>"]
    their_ids, our_ids = (words.convert_tokens_to_ids(tokens) for words in (their_words, our_words))
    assert their_ids != our_ids
    ours_at = our_words.convert_tokens_to_ids(their_words.convert_ids_to_tokens(list(range(len(their_words)))))
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([their_ids])).logits[0]
        found = assistant.parts.model(input_ids=torch.tensor([our_ids])).logits[0]
    assert (found[:, ours_at] - expected[:, : len(their_words)]).abs().max() < 1e-4


def test_the_engine_runs_it_as_the_standard_decoder_does(assistant) -> None:
    assert isinstance(assistant.decoder, EngineDecoder)
    prompt = assistant.prompt([{"role": "user", "content": [{"type": "image", "image": picture()}]}])
    assert len(prompt.image_grids) == 1
    plain = Decoder(assistant.parts.model)
    scores = [
        assistant.decoder.feed(assistant.decoder.new_context(), prompt), plain.feed(plain.new_context(), prompt),
    ]  # fmt: skip
    count = assistant.decoder.engine.llama.token_count
    assert (scores[0][:count] - scores[1][:count]).abs().max() < 1e-4


# --- prompts ----------------------------------------------------------------------------------------------------------
def written(assistant, prompt: Prompt) -> str:
    return assistant.parts.processor.tokenizer.decode(list(prompt.ids), skip_special_tokens=False)


def test_prompts_are_the_releases_own(assistant) -> None:
    units = [{"type": "audio", "units": [5, 4095, 0]}]
    shown = [{"type": "image", "image": picture()}]
    start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    end = "<|im_end|>\n<|im_start|>assistant\n"
    system = {"role": "system", "content": SYSTEM}

    def told(content) -> str:
        return written(assistant, assistant.prompt([system, {"role": "user", "content": content}]))

    assert told("Who?") == f"{start}Who?{end}"
    assert told(units) == f"{start}{CHAT}<|speech_5|><|speech_4095|><|speech_0|>{end}"
    assert told([*shown, *units]) == f"{start}{'<|image_pad|>' * 6}\n{CHAT}<|speech_5|><|speech_4095|><|speech_0|>{end}"
    prompt, _ = assistant.transcribing([5, 4095])
    assert f"user\n{TRANSCRIBE}<|speech_5|><|speech_4095|>{end}" in written(assistant, prompt)
    (sentence,) = assistant.reading("Good morning")
    assert f"user\n{SPEAK}Good morning{end}" in written(assistant, sentence.prompt)


@pytest.mark.parametrize("forged", ["<|im_end|>", "<|speech_5|>", "<|image_pad|>"])
def test_what_a_user_types_is_never_a_control_token(assistant, forged) -> None:
    ids = assistant.prompt([{"role": "user", "content": f"Hi {forged}"}]).ids
    token = assistant.parts.processor.tokenizer.convert_tokens_to_ids(forged)
    assert ids.count(token) == (1 if forged == "<|im_end|>" else 0)  # the one that ends the turn


# --- replies ----------------------------------------------------------------------------------------------------------
def read(table, pieces: list[list[int]]) -> list:
    stream = EventStream(table, ReleasedReply().parser("male"))
    events = [event for part in pieces for event in stream.step(part)]
    return merge_deltas([*events, *stream.finish()])


def test_a_reply_is_read_however_it_is_cut(assistant) -> None:
    table, form = assistant.table, assistant.reply_format
    reply = SpokenReply('Is it "red"?', "Yes.\nIt is 好.", "happy", "low", (1, 4095, 7, 7))
    ids = form.encode(reply, table)
    whole = read(table, [ids])
    assert [type(event) for event in whole] == [TranscriptDelta, TextDelta, StyleChosen, UnitsDelta, ReplyDone]
    assert whole[0].text == reply.transcript and whole[1].text == reply.text and whole[3].units == reply.units
    assert whole[2].style == Style("male", "happy", "low") and whole[4].complete
    for size in (1, 2, 5):
        assert read(table, [ids[start : start + size] for start in range(0, len(ids), size)]) == whole
    grammar = form.grammar(table)
    for token in ids:
        assert token in grammar.allowed()
        grammar.advance(token)
    assert grammar.done


@pytest.mark.parametrize(
    ("text", "expected", "problem"),
    [
        ("Plain words.", "Plain words.", False),
        ('{"assistant response text": "Hi"，"assistant response emotion": "sad"}', "Hi", False),
        ('{"other": "x", "assistant response text": "Hi", "assistant response pitch": "odd"}', "Hi", False),
        ('{"assistant response text": "cut sho', "cut sho", True),
        ('{"assistant response text": "Hi"} and more', "Hi", True),
        ('{"assistant response text" "Hi"', "", True),
        ("", "", True),
    ],
)
def test_replies_that_are_other_than_expected(assistant, text, expected, problem) -> None:
    events = read(assistant.table, [assistant.table.encode(text)])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == expected
    assert sum(isinstance(event, StyleChosen) for event in events) == 1
    assert (events[-1].problem is not None) == problem


def test_speech_without_a_frame_is_speech_and_outside_of_it_is_none(assistant) -> None:
    table = assistant.table
    bare = read(table, [table.unit_ids[[3, 9]].tolist() + [table.end_of_turn]])
    assert [type(event) for event in bare] == [StyleChosen, UnitsDelta, ReplyDone] and bare[1].units == (3, 9)
    lost = read(table, [[*table.encode('{"user question text": "'), int(table.unit_ids[3])]])
    assert lost[-1].problem is not None and not any(isinstance(event, UnitsDelta) for event in lost)


# --- the whole --------------------------------------------------------------------------------------------------------
def test_chat_with_picture_and_voice_streams_and_remembers(assistant) -> None:
    question = voices(1.0)[0].numpy()
    talk = assistant.conversation("male slow")
    events = list(talk.stream(audio=question, image=picture()))
    assert isinstance(events[-1], Done)
    whole = assistant.conversation("male slow").chat(audio=question, image=picture())
    assert whole.text == events[-1].reply.text and whole.units == events[-1].reply.units
    sound = [event.samples for event in events if isinstance(event, AudioChunk)]
    if whole.units:
        assert np.abs(np.concatenate(sound) - whole.audio).max() < 1e-3
    assert talk.chat(text="And now?").text is not None and len(talk.history) == 2
    assert assistant.transcribe(question) is not None
    assert len(assistant.pronounce("Hello")) >= 1


def test_a_session_hears_bit_by_bit_and_answers_the_same(assistant) -> None:

    question = voices(1.0)[0].numpy()
    whole = assistant.conversation("female").chat(audio=question, image=picture())
    scheduler = Scheduler(assistant)
    session = scheduler.open("female")
    session.show(picture())
    for part in np.array_split(question, 7):
        session.hear(part)
    events = list(session.ask())
    done = [event for event in events if isinstance(event, Done)]
    assert done and done[0].reply.units == whole.units and done[0].reply.text == whole.text
    session.close()


def asked(client, body: dict[str, Any]) -> tuple[str, bytes, list[dict[str, Any]]]:
    """What a streamed answer says, as text and as sound (16-bit), and its chunks."""
    answer = client.post("/v1/chat/completions", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    sounds = [choice["delta"].get("audio") or {} for chunk in chunks for choice in chunk["choices"]]
    words = "".join(sound.get("transcript") or "" for sound in sounds)
    return words, b"".join(base64.b64decode(sound.get("data") or "") for sound in sounds), chunks


def test_the_server_streams_the_whole_answer_to_a_picture_and_a_voice(assistant) -> None:
    """Streamed and whole alike; what is shown and what is heard both reach the model."""
    from fastapi.testclient import TestClient

    from emova_app.server.app import create_app
    from emova_app.server.config import ServerConfig

    def drawn(image: Image.Image) -> dict[str, Any]:
        file = io.BytesIO()
        image.save(file, "png")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}

    def said(samples: np.ndarray) -> dict[str, Any]:
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, format="wav", subtype="FLOAT")
        data = base64.b64encode(file.getvalue()).decode()
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}

    question = voices(1.0)[0].numpy()
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "male slow", "format": "pcm16"}}
    config = ServerConfig(model_name="tiny")
    with TestClient(create_app(config, assistant), base_url=f"http://127.0.0.1:{config.port}") as client:

        def body(*content: dict[str, Any]) -> dict[str, Any]:
            return {"model": "tiny", "messages": [{"role": "user", "content": [*content]}], **spoken}

        seen_and_heard = body(drawn(picture()), said(question))
        whole = client.post("/v1/chat/completions", json=seen_and_heard)
        words, sound, chunks = asked(client, seen_and_heard)
        unseen, unheard = (
            asked(client, body(*content))[:2]
            for content in ([said(question)], [drawn(picture()), said(question[:9000])])
        )
        written = body({"type": "text", "text": "Hello"}) | {"modalities": ["text"]}
        silent = client.post("/v1/chat/completions", json=written).json()["choices"][0]["message"]
        _, no_sound, pieces = asked(client, written)
    assert whole.status_code == 200
    message = whole.json()["choices"][0]["message"]
    direct = assistant.conversation("male slow").chat(audio=question, image=picture())
    assert words == message["audio"]["transcript"] == direct.text
    assert len(chunks) > 3 and chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    heard = [np.frombuffer(data, "<i2").astype(int) for data in (sound, base64.b64decode(message["audio"]["data"]))]
    assert len(heard[0]) == len(heard[1]) > 0 and np.abs(heard[0] - heard[1]).max() <= 4
    assert (words, sound) not in (unseen, unheard)
    # Without sound the words are all there: in these replies they come after the style.
    told = "".join(choice["delta"].get("content") or "" for chunk in pieces for choice in chunk["choices"])
    assert silent["content"] == told == assistant.chat(text="Hello").text != ""
    assert silent["audio"] is None and no_sound == b""


def test_the_commands_use_it(folder, tmp_path, capsys) -> None:
    assert main(["info", "--model", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kinds"]["vision"] == "qwen2_vit" and facts["kinds"]["reply"] == "emova_release"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Qwen Research License" in card and "language model: " in card


# --- forms, bad input -------------------------------------------------------------------------------------------------
def test_a_tied_head_may_be_missing(speech, tmp_path) -> None:
    release = write_model_release(tmp_path / "release", tied=True, shards=1)
    line = ["import", "emova-hf", str(release), "--speech", str(speech), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(line) == 0
    model = Assistant.from_pretrained(tmp_path / "out").parts.model
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


def test_another_backbone_of_transformers_answers_too(speech, tmp_path) -> None:
    release = write_model_release(tmp_path / "release", kind="qwen3")
    line = ["import", "emova-hf", str(release), "--speech", str(speech), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(line) == 0
    assistant = Assistant.from_pretrained(tmp_path / "out", config=AssistantConfig(reply_limits=LIMITS))
    assert isinstance(assistant.decoder, EngineDecoder) and isinstance(assistant.decoder.engine.llama, CausalLM)
    assert assistant.parts.model.config.text_config.model_type == "qwen3"
    sound = voices(1.0)[0].numpy()
    whole = list(assistant.conversation().stream(audio=sound, image=picture()))[-1]
    session = Scheduler(assistant).open()
    session.show(picture())
    session.hear(sound)
    streamed = list(session.ask())[-1]
    assert isinstance(whole, Done) and isinstance(streamed, Done) and whole.reply.units == streamed.reply.units


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_and_there_again_is_the_same(speech, tmp_path, tied, caplog) -> None:
    """Each tensor bit for bit, the tokenizer, the configuration; the release's names and shapes on the way."""
    release = write_model_release(tmp_path / "release", tied=tied, shards=2)
    said = ["--speech", str(speech), "--quiet"]
    assert main(["import", "emova-hf", str(release), *said, "--out", str(tmp_path / "first")]) == 0
    back = tmp_path / "back"
    assert main(["export", "emova-hf", "--model", str(tmp_path / "first"), "--out", str(back), "--quiet"]) == 0
    assert main(["import", "emova-hf", str(back), *said, "--out", str(tmp_path / "second")]) == 0
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]  # each would be a line
    there, again = source.Tensors.of(release), source.Tensors.of(back)
    assert set(there) == set(again)
    for name in there:
        if name not in ("model.embed_tokens.weight", "lm_head.weight"):  # their rows follow the units' order
            assert torch.equal(there[name], again[name])


def test_another_model_is_not_exported_as_the_release(tmp_path, capsys) -> None:
    assert main(["export", "emova-hf", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "none that was imported" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_units_of_one_release_with_the_voice_of_another_are_refused(speech, tmp_path) -> None:
    """In a whole checkpoint: a detokenizer of ours has as many units, and says other sounds with them."""
    release = write_model_release(tmp_path / "release")
    line = ["import", "emova-hf", str(release), "--speech", str(speech), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(line) == 0
    shutil.rmtree(tmp_path / "out" / "speech_detokenizer")
    nano = SHIPPED / "emova-nano"
    shutil.copytree(nano / "speech_detokenizer", tmp_path / "out" / "speech_detokenizer")
    with pytest.raises(InputError, match="units|styles"):
        Assistant.from_pretrained(tmp_path / "out")


# --- wishes -----------------------------------------------------------------------------------------------------------
def wished(assistant, text: str, emotion: str | None = None, pitch: str | None = None) -> str:
    """What comes of a model that would write ``text``, where the grammar asks for other words."""
    table = assistant.table
    grammar = assistant.reply_format.grammar(table, ReplyConstraints(emotion=emotion, pitch=pitch))
    left, made = table.encode(text), list[int]()
    while not grammar.done:
        if forced := grammar.take_forced():
            made += forced
            rest = b"".join(table.token_bytes[token] for token in left).decode()
            left = table.encode(re.sub(r'^:?\s*"?\w*', "", rest))  # without the word that it would have written
            continue
        token = left.pop(0) if left else table.end_of_turn
        if token not in grammar.allowed():  # what is joined there must be written apart
            token, *others = (table.token_bytes.index(bytes([byte])) for byte in table.token_bytes[token])
            left[:0] = others
        assert token in grammar.allowed()
        grammar.advance(token)
        made.append(token)
    return b"".join(table.token_bytes[token] or b"" for token in made).decode()


@pytest.mark.parametrize("space", ["", " "])
def test_an_emotion_and_a_pitch_can_be_asked_for(assistant, space) -> None:
    def reply(emotion: str, pitch: str) -> str:
        said = {
            "user question text": "Is it red?", "user question emotion": "neutral",
            "assistant response text": 'It is "red": "sad", yes.', "assistant response emotion": emotion,
            "assistant response pitch": pitch, "assistant response speech": "",
        }  # fmt: skip
        return json.dumps(said, separators=(f",{space}", f":{space}"))

    text = reply("neutral", "normal")
    assert wished(assistant, text) == text
    made = wished(assistant, text, emotion="happy")
    assert json.loads(made) == json.loads(reply("happy", "normal"))
    made = wished(assistant, text, emotion="sad", pitch="high")
    assert json.loads(made) == json.loads(reply("sad", "high"))
    events = read(assistant.table, [assistant.table.encode(made)])
    assert [event.style for event in events if isinstance(event, StyleChosen)] == [Style("male", "sad", "high")]
    assert wished(assistant, "Plain words.", emotion="happy") == "Plain words."


def test_where_a_value_begins_no_other_word_can_be_slipped_in(assistant) -> None:
    table = assistant.table
    grammar = assistant.reply_format.grammar(table, ReplyConstraints(emotion="happy"))
    for token in table.encode('{"assistant response emotion'):
        assert token in grammar.allowed()
        grammar.advance(token)
    opening = [token for token, piece in enumerate(table.token_bytes) if piece and re.search(rb'"[\s:,]*\w', piece)]
    assert not set(opening) & set(grammar.allowed().tolist()) and table.quote in grammar.allowed()


BROKEN: dict[str, dict[str, Any]] = {
    "lacks a tensor for model.projector.leave.bias": {"model.mm_projector.2.bias": None},
    "lacks a tensor for lm_head.weight": {"lm_head.weight": None},
    "tensor model.audio_tower.x is none that is known": {"model.audio_tower.x": torch.ones(1)},
    "has shape [40, 49], not [40, 48]": {"model.mm_projector.0.weight": torch.ones(40, 49)},
    "is more than config.json says": {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 40)},
    "holds what is no number": {"model.norm.weight": torch.full((40,), float("nan"))},
    "rows of the embedding": {"model.embed_tokens.weight": torch.ones(300, 40)},
    "two tensors would be model.language_model.norm.weight": {"norm.weight": torch.ones(40)},
}


@pytest.mark.parametrize("told", BROKEN)
def test_another_release_is_refused_by_what_differs(speech, tmp_path, capsys, told) -> None:
    release = write_model_release(tmp_path / "release", shards=1, **BROKEN[told])
    before = sorted(tmp_path.iterdir())
    line = ["import", "emova-hf", str(release), "--speech", str(speech), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(line) == 2
    (text,) = capsys.readouterr().err.strip().splitlines()
    assert told in text and sorted(tmp_path.iterdir()) == before


def test_what_does_not_fit_is_refused(release, speech, tmp_path, capsys, monkeypatch) -> None:
    def told(*words: str) -> str:
        assert main(["import", "emova-hf", *words, "--out", str(tmp_path / "out"), "--quiet"]) == 2
        assert not (tmp_path / "out").exists()
        (text,) = capsys.readouterr().err.strip().splitlines()
        return text

    assert "--speech" in told(str(release))
    assert "none of the EMOVA release" in told(str(release), "--speech", "emova-nano")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "emova_telepathy"}')
    for file in release.glob("model*"):
        (other / file.name).symlink_to(file)
    assert "no language model that is known" in told(str(other), "--speech", str(speech))
    (other / "config.json").unlink()
    (other / "config.json").symlink_to(release / "config.json")
    assert "tokenizer" in told(str(other), "--speech", str(speech))
    monkeypatch.setattr(source, "available_memory", lambda: 1000)
    assert "GiB" in told(str(release), "--speech", str(speech))


def test_scores_of_a_stream_do_not_depend_on_how_it_is_cut(assistant) -> None:
    from emova.core.streams import run

    engine = assistant.decoder.engine
    ids = np.random.default_rng(0).integers(0, 300, 40).tolist()
    whole = torch.cat(run(ScoreStream(engine), [ids]))
    parts = torch.cat(run(ScoreStream(engine), [ids[:7], ids[7:8], ids[8:]]))
    assert (whole - parts).abs().max() < 1e-4
