"""Bad input of every kind, through the command line: one line, exit code 2, no traceback, no file left behind."""

from __future__ import annotations

import json
import shutil
import socket

import numpy as np
import pytest
import soundfile
from PIL import Image

from emova import Assistant
from emova.cli.main import main
from emova.core.errors import InputError
from emova.core.io import read_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good files, and bad ones of every kind."""
    folder = tmp_path_factory.mktemp("input")
    tone = (0.3 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
    soundfile.write(folder / "good.wav", tone, 16_000)
    Image.new("RGB", (30, 20), "red").save(folder / "good.png")
    (folder / "empty").touch()
    (folder / "noise").write_bytes(bytes(range(256)) * 8)
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:9_000])
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "long.wav", np.tile(tone, 61), 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "rate.wav", tone, 100)
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    Image.new("1", (40_000, 2)).save(folder / "wide.png")
    return folder


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tiny_vq_checkpoint"])
def checkpoint(request):
    """With each of the codecs."""
    return request.getfixturevalue(request.param)


def refused(arguments: list[str], capsys, *words: str) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("emova: ") and printed.err.count("\n") == 1 and "Traceback" not in printed.err
    for word in words:
        assert word in printed.err


AUDIO = ("missing.wav", "", "empty", "noise", "cut.wav", "silent.wav", "long.wav", "nan.wav", "rate.wav", "good.png")


@pytest.mark.parametrize("command", ["chat", "transcribe", "tokenize", "resynthesize"])
@pytest.mark.parametrize("name", AUDIO)
def test_audio(folder, tmp_path, monkeypatch, capsys, checkpoint, command: str, name: str) -> None:
    if name == "silent.wav" and command in ("tokenize", "resynthesize"):
        pytest.skip("silence has units too")
    monkeypatch.chdir(tmp_path)
    path = str(folder / name)
    given = ["--audio", path] if command == "chat" else [path]
    refused([command, *given, "--model", str(checkpoint)], capsys, path, ";")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["missing.png", "", "empty", "noise", "cut.png", "wide.png", "good.wav"])
def test_pictures(folder, tmp_path, monkeypatch, capsys, tiny_checkpoint, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(folder / name)
    refused(["chat", "--image", path, "--text", "What?", "--model", str(tiny_checkpoint)], capsys, path, ";")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speak", "Hi", "--voice", "robot"], ("voice", "female, male")),
        (["speak", "Hi", "--emotion", "joyful"], ("emotion", "happy")),
        (["speak", "Hi", "--pitch", "1.5"], ("pitch", "normal, low, high")),
        (["chat", "--text", "Hi", "--voice", "robot"], ("voice",)),
        (["chat", "--text", "Hi", "--emotion", ""], ("emotion",)),
        (["speak", ""], ("empty",)),
        (["chat", "--text", " "], ("empty",)),
        (["speak", "x" * 3000], ("2000",)),
        (["speak", "Hi", "--out", "speech.mp3"], (".wav",)),
        (["speak", "Hi", "--out", "no/such/folder/a.wav"], ("folder",)),
        (["chat", "--image", "GOOD.png"], ("question", "--text")),
        (["chat", "--audio", "GOOD.wav", "--max-seconds", "0.5"], ("longer than 0.5 s",)),
        (["chat", "--audio", "GOOD.wav", "--max-seconds", "nan"], ("--max-seconds",)),
        (["chat", "--unknown"], ("--unknown", "--help")),
        (["transcribe"], ("FILE", "--help")),
        (["sing"], ("sing",)),
        (["sepak"], ("did you mean speak",)),
    ],
)
def test_options(folder, tmp_path, monkeypatch, capsys, tiny_checkpoint, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    given = [part.replace("GOOD", str(folder / "good")) for part in arguments]
    if arguments[0] in ("speak", "chat"):
        given += ["--model", str(tiny_checkpoint)]
    refused(given, capsys, *words)
    assert not list(tmp_path.iterdir())


def damage(folder, how: str) -> None:
    """Break one part of a checkpoint."""
    if how.startswith("no "):
        path = folder / how[3:]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif how.startswith("cut "):
        path = folder / how[4:]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "other tokenizer":
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] != "<|speech_9|>"]
        path.write_text(json.dumps(tokenizer))
    else:
        path, key, value = how.split(" ")
        config = json.loads((folder / path).read_text())
        *parents, last = key.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        assert last in inner
        inner[last] = json.loads(value)
        (folder / path).write_text(json.dumps(config))


DAMAGE = (
    "no config.json",
    "no model.safetensors",
    "no tokenizer.json",
    "no processor_config.json",
    "cut config.json",
    "cut model.safetensors",
    "cut tokenizer.json",
    "cut processor_config.json",
    'config.json model_type "llama"',
    "config.json text_config.hidden_size 64",
    "config.json text_config.num_hidden_layers 3",
    "config.json text_config.num_hidden_layers 1",
    "config.json token_count 4000",
    "processor_config.json image_processor.tile_size 32",
    "processor_config.json image_processor.tile_side 3",
    "other tokenizer",
)
OF_A_CODEC = (
    "no speech_tokenizer",
    "no speech_tokenizer/model.safetensors",
    "no speech_detokenizer",
    "no speech_detokenizer/config.json",
    "no style_prototypes.safetensors",
    "cut speech_tokenizer/model.safetensors",
    "cut speech_detokenizer/model.safetensors",
    "cut speech_detokenizer/config.json",
    "cut style_prototypes.safetensors",
    "speech_detokenizer/config.json style.style_size 16",
)
OF_S2U_AND_U2S = (
    "speech_tokenizer/config.json block_units 0.5",
    "speech_detokenizer/config.json vits.units.codebook_size 100",
    "speech_detokenizer/config.json vits.hop_length 120",
)
OF_VQ_AND_FLOW = (
    "speech_tokenizer/config.json encoder.block 0.5",
    "speech_tokenizer/config.json encoder.block 15",
    "speech_tokenizer/config.json encoder.codes 100",
    "speech_tokenizer/config.json encoder.layers 3",
    "speech_tokenizer/config.json encoder.heads 3",
    "speech_tokenizer/config.json encoder.pooling 2",
    "speech_tokenizer/config.json encoder.positions 6",
    "speech_detokenizer/config.json units.block 0",
    "speech_detokenizer/config.json unit_rate 25.0",
    "speech_detokenizer/config.json unit_rate 0",
    "speech_detokenizer/config.json hears_styles false",
    "speech_detokenizer/config.json estimator.blocks 2",
    "speech_detokenizer/config.json estimator.groups 3",
    "speech_detokenizer/config.json mel.hop_length 0",
    "speech_detokenizer/config.json chunks [0]",
    'speech_detokenizer/config.json chunks ["many"]',
    "speech_detokenizer/config.json steps 0",
    'speech_detokenizer/config.json sound "hum"',
)


@pytest.mark.parametrize(
    ("whole", "how"),
    [("tiny_checkpoint", how) for how in (*DAMAGE, *OF_A_CODEC, *OF_S2U_AND_U2S)]
    + [("tiny_vq_checkpoint", how) for how in (*OF_A_CODEC, *OF_VQ_AND_FLOW)],
)
def test_damaged_checkpoints(tmp_path, request, whole: str, how: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(request.getfixturevalue(whole), folder)
    damage(folder, how)
    with pytest.raises(InputError) as raised:
        Assistant.from_pretrained(folder)
    message = str(raised.value)
    assert str(folder) in message and ";" in message and "\n" not in message and len(message) < 500


def test_a_checkpoint_without_its_voice_through_the_command_line(tmp_path, tiny_checkpoint, capsys) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.rmtree(folder / "speech_detokenizer")
    for command in (["speak", "Hi", "--out", str(tmp_path / "a.wav")], ["info"]):
        refused([*command, "--model", str(folder)], capsys, "speech_detokenizer", "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("name", ["emova-nanno", "no/such/folder", "", "../emova-nano", "a\nb"])
def test_unknown_checkpoints(name: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["info", "--model", name], capsys, "checkpoint")
    refused(["speak", "Hi", "--model", name], capsys, "checkpoint")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_checkpoint(folder, capsys) -> None:
    refused(["info", "--model", str(folder / "good.wav")], capsys, "not a folder")


@pytest.mark.parametrize("kind", ["audio", "picture"])
@pytest.mark.parametrize(
    ("path", "word"),
    [("a folder", "folder"), (".", "folder"), ("socket", "neither"), ("/dev/null", "neither"), ("/dev/zero", "neither"),
     ("", "no name"), ("dangling", "no such file"), ("ring", "cannot be read"), ("a\0b", "cannot be read"),
     ("x" * 5000, "cannot be read"), ("a folder/x", "no such file")],
)  # fmt: skip
def test_what_is_no_file_is_called_by_what_it_is(tmp_path, monkeypatch, kind: str, path: str, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "ring").symlink_to("ring")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match=word) as told:
            read_source(path, kind, 1 << 20)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


LONG = "x" * 5000


@pytest.mark.parametrize(
    "command",
    ["eval own --data {long} --out o", "data convert sharegpt4v-pt --from {long} --out o", "train stage1 {long}",
     "data convert sharegpt4v-pt --from folder --out empty", "data convert sharegpt4v-pt --from folder --out {long}",
     "data convert sharegpt4v-pt --from folder --out empty/o", "train stage1 sound.wav", "train stage1 folder"],
)  # fmt: skip
def test_folders_and_configs_that_are_none(tmp_path, monkeypatch, capsys, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "sound.wav").write_bytes(bytes(range(256)))
    assert main(command.format(long=LONG).split()) == 2
    *_, told = capsys.readouterr().err.splitlines()
    assert told.startswith("emova: ") and "internal" not in told and len(told) < 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "sound.wav"]
