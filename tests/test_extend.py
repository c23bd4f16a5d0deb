"""``docs/extend.md`` is true: what it shows becomes a module outside the package, and a checkpoint lives on it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint import registry
from emova.cli.main import main
from emova.core.errors import InputError
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.parser import SpokenReply, collect
from emova.reply.stream import EventStream
from emova.speech.tokenizer.protocol import SpeechTokenizer, TokenizerStream
from emova.speech.tokenizer.streaming import listen
from tests.documents import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=30)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def question(seconds: float = 0.5) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * 0.1)).astype(np.float32)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder that holds the page's code as the module ``my_parts``, and its entry points as if it was installed."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_parts.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (folder / "my_parts-1.dist-info").mkdir()
    (folder / "my_parts-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: my_parts\nVersion: 1\n")
    lines = [line.strip() for line in blocks("ini")[0].splitlines() if ":" in line]
    (folder / "my_parts-1.dist-info" / "entry_points.txt").write_text("\n".join(["[emova.parts]", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def parts(outside):
    """The module, imported: its decorators have registered what it has."""
    sys.path.insert(0, str(outside))
    try:
        return importlib.import_module("my_parts")
    finally:
        sys.path.remove(str(outside))


@pytest.fixture(scope="module")
def folder(parts, tiny_checkpoint, tiny_tokenizer, tmp_path_factory):
    """A whole checkpoint on the three parts, saved as any other."""
    from emova.model.building import (
        ImageShape,
        ModelConfig,
        ProjectorShape,
        TextShape,
        VisionConfig,
        build_model,
        build_processor,
    )
    from emova.vision.internvit import InternViTConfig

    folder = tmp_path_factory.mktemp("extended") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.rmtree(folder / "speech_tokenizer")
    parts.LoudnessTokenizer(parts.LoudnessConfig()).save_pretrained(folder / "speech_tokenizer")
    tower = InternViTConfig(image_size=28, patch_size=7, width=16, depth=2, heads=2, ffn_width=32)
    shapes = ModelConfig(
        TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=768),
        VisionConfig(internvit=tower), ProjectorShape(kind="linear"), ImageShape(), reply_format="plain",
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(shapes, tiny_tokenizer)
    assert isinstance(model.model.projector, parts.LinearProjector)
    model.save_pretrained(folder)
    build_processor(shapes, tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def assistant(folder) -> Assistant:
    return Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))


def test_the_checkpoint_loads_its_parts_and_answers(assistant, parts) -> None:
    assert isinstance(assistant.speech_tokenizer, parts.LoudnessTokenizer)
    assert isinstance(assistant.parts.model.model.projector, parts.LinearProjector)
    assert isinstance(assistant.reply_format, parts.PlainReply)
    assert isinstance(assistant.speech_tokenizer, SpeechTokenizer)
    replies = [assistant.chat(audio=question(), image=Image.new("RGB", (40, 30), colour)) for colour in ("red", "blue")]
    for reply in replies:
        assert reply.text and 1 <= len(reply.units) <= 30 and len(reply.audio) == 960 * len(reply.units)
        assert reply.style_understood and reply.transcript == ""
    again = assistant.chat(audio=question(), image=Image.new("RGB", (40, 30), "red"))
    assert again.units == replies[0].units and np.array_equal(again.audio, replies[0].audio)


def test_saved_equals_loaded(folder, assistant, parts, tmp_path) -> None:
    from emova.checkpoint.loading import load_parts

    config = json.loads((folder / "config.json").read_text())
    assert config["projector_config"]["kind"] == "linear" and config["reply_config"] == {"kind": "plain"}
    assert json.loads((folder / "speech_tokenizer" / "config.json").read_text())["kind"] == "loudness"
    loaded = load_parts(folder)
    patches = torch.randn(3, 16, 16)
    projectors = loaded.model.model.projector, assistant.parts.model.model.projector
    assert torch.equal(projectors[0](patches), projectors[1](patches))
    projectors[0].scale_output(2.0)
    assert torch.allclose(projectors[0](patches), 2 * projectors[1](patches))


@pytest.mark.parametrize("length", [0, 1, 640, 8000, 8001])
def test_the_tokenizer_keeps_the_law_of_streams(assistant, length) -> None:
    tokenizer = assistant.speech_tokenizer
    samples = torch.from_numpy(question(1.0)[:length])[None]
    whole = tokenizer.encode(samples)[0]
    assert len(whole) == -(-length // 640)
    with tokenizer.streaming() as stream:
        assert isinstance(stream, TokenizerStream)
        units = [stream.step(part) for part in samples.split(999, dim=1)] + [stream.finish()]
        with pytest.raises(InputError, match="has ended"):
            stream.step(samples)
    assert torch.equal(torch.cat(units, dim=1)[0], whole)
    if length >= 8000:
        limits = assistant.config.audio_limits
        assert listen(tokenizer, samples[0].numpy(), limits, False) == whole.tolist()


@pytest.mark.parametrize("kind", ["plain", "text_first"])
def test_the_formats_write_what_they_allow_and_read_it_back(assistant, kind) -> None:
    reply_format, table = assistant.parts.model.config.reply_format(kind), assistant.table
    for units in ((1,), tuple(range(30))):
        reply = SpokenReply("", "What a day, is it not?", "sad", "low", units)
        ids = reply_format.encode(reply, table)
        grammar = reply_format.grammar(table, ReplyConstraints(limits=ReplyLimits(40, 40, 40)))
        taken = grammar.take_forced()
        while not grammar.done:
            token = ids[len(taken)]
            assert token in grammar.allowed()
            grammar.advance(token)
            taken += [token, *grammar.take_forced()]
        assert taken == ids and collect(EventStream(table, reply_format.parser("male")).step(ids)) == reply
        content = len(table.encode(reply.text)) + len(units)
        assert len(ids) - content <= reply_format.overhead(table, ReplyConstraints())


def test_training_teaches_it(assistant, folder) -> None:
    """The processor of the checkpoint hands the format to the training."""
    from emova.model import EmovaProcessor
    from emova_train.data.examples import ANSWER, SKELETON, STYLE, UNITS
    from emova_train.data.replies import reply_format_of, reply_message

    reply_format = reply_format_of(EmovaProcessor.from_pretrained(folder, local_files_only=True))
    assert reply_format.system_prompt == "Reply plainly."
    message, kinds = reply_message(reply_format, SpokenReply("", "Hi", "sad", "low", (1, 2)), assistant.table)
    assert [kind for kind, before in zip(kinds, (None, *kinds), strict=False) if kind != before] == [
        STYLE, ANSWER, UNITS, SKELETON,
    ]  # fmt: skip
    assert len(message["content"][0]["ids"]) == len(kinds) - 1


def test_an_installed_package_is_found_without_an_import(outside, folder, tmp_path) -> None:
    """As its own process: nothing has imported the module, only its entry points are known."""
    environment = {**os.environ, "PYTHONPATH": str(outside), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "emova", "chat", "--text", "Hi!", "--model", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] and (tmp_path / "answer.wav").is_file()
    without = {**environment, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=without)
    assert done.returncode == 2 and "is unknown; there are" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "speech_tokenizer/config.json",
            {"kind": "telepathy"},
            "tokenizer kind 'telepathy' is unknown; there are",
        ),
        (
            "speech_detokenizer/config.json",
            {"kind": "os:system"},
            "kind 'os:system' is unknown; there are emova_u2s, f",
        ),
        ("config.json", {"projector_config": {"kind": "mirror"}}, "projector kind 'mirror' is unknown; there are"),
        (
            "config.json",
            {"vision_config": {"kind": "eye"}},
            "vision kind 'eye' is unknown; there are internvit",
        ),
        (
            "config.json",
            {"reply_config": {"kind": "xml"}},
            "reply format 'xml' is unknown; there are emova_release, glm_4_voice, interleaved",
        ),
        ("config.json", {"reply_config": {"kind": "json", "json": {"indent": 2}}}, "has no option 'indent'"),
        ("config.json", {"reply_config": {"kind": "interleaved", "interleaved": {"ratio": 2}}}, "interleaved.*ratio"),
    ],
)
def test_an_unknown_kind_is_one_line_that_lists_the_known(file, change, message, tiny_checkpoint, tmp_path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    path = tmp_path / "odd" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message) as raised:
        Assistant.from_pretrained(tmp_path / "odd")
    assert "\n" not in str(raised.value)


def test_a_kind_is_registered_once_and_by_a_name(parts) -> None:
    for kind in ("s2u", "loudness", "no name", ""):
        with pytest.raises(ValueError, match="another name"):
            registry.register("speech_tokenizer", kind)(torch.nn.Module)
    with pytest.raises(ValueError, match="there is no socket"):
        registry.register("nose", "smell")  # type: ignore[arg-type]  # it is told at run time too
    registry.register("speech_tokenizer", "loudness")(parts.LoudnessTokenizer)  # the same class again is no matter
    assert registry.REPLY_FORMATS.find("thoughts") is registry.REPLY_FORMATS.find("interleaved")


def test_info_names_the_kinds(folder, capsys) -> None:
    assert main(["info", "--model", str(folder)]) == 0
    assert "kinds: loudness, u2s, internvit, linear, plain" in capsys.readouterr().out


def test_the_page_names_every_kind() -> None:
    for each in (
        registry.TOKENIZERS,
        registry.DETOKENIZERS,
        registry.REPLY_FORMATS,
        registry.TOWERS,
        registry.PROJECTORS,
    ):
        assert f"`{each.socket}`" in PAGE
        assert all(f"`{kind}`" in PAGE for kind in each.built_in)
