"""The command line: instant help, results for people and machines, exit codes, no partial files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emova.checkpoint.files import WORDS
from emova.cli import common
from emova.cli import main as cli
from emova.cli.info import count_words
from emova.cli.main import main
from emova.core.errors import InputError
from emova.decoding.word_search import WordModel
from emova.speech.audio import load_audio, save_wav

HEAVY = {"torch", "transformers", "numpy", "PIL", "rich", "soundfile", "av", "omegaconf", "safetensors"}


@pytest.fixture()
def files(tmp_path, monkeypatch):
    """A question and a picture in an empty folder, which is the working folder."""
    samples = (0.3 * np.sin(np.arange(8_000) * 0.1)).astype(np.float32)
    save_wav(tmp_path / "question.wav", samples, 16_000)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def quick(monkeypatch):
    """Short replies."""
    from emova.reply.format import ReplyLimits

    make = common.assistant_config

    def short(arguments):
        import dataclasses

        return dataclasses.replace(make(arguments), reply_limits=ReplyLimits(6, 6, 20))

    monkeypatch.setattr("emova.cli.chat.assistant_config", short)
    monkeypatch.setattr("emova.cli.transcribe.assistant_config", short)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["chat", "--help"], ["speak", "--help"]])
def test_help_imports_nothing_heavy(arguments) -> None:
    code = f"import sys\nfrom emova.cli.main import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
    code += f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_overview_lists_every_command(capsys) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in cli.OWN:
        assert f"  {name} " in shown and cli.HELP[name] in shown


@pytest.mark.parametrize("name", cli.OWN)
def test_help_of_each_command_has_examples(name, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: emova {name}" in shown and f"  emova {name}" in shown and "--json" in shown


def test_chat_for_people(files, tiny_checkpoint, quick, capsys) -> None:
    arguments = ["chat", "--model", str(tiny_checkpoint), "--image", "photo.png", "--audio", "question.wav"]
    assert main([*arguments, "--out", "answer.wav", "--voice", "male", "--emotion", "sad"]) == 0
    printed = capsys.readouterr()
    lines = dict(line.split(":", 1) for line in printed.out.strip().splitlines())
    assert list(lines) == ["Question", "Answer", "Emotion", "Pitch", "Voice", "Time"]
    assert lines["Emotion"].strip() == "sad" and "answer.wav" in lines["Voice"]
    assert len(load_audio("answer.wav", 24_000)) % 960 == 0
    assert names(files) == {"question.wav", "photo.png", "answer.wav"}


def test_chat_for_machines(files, tiny_checkpoint, quick, capsys) -> None:
    assert main(["chat", "--model", str(tiny_checkpoint), "--text", "Hi", "--json", "--pitch", "high"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert printed.err == "" and printed.out.count("\n") == 1
    assert result["transcript"] == "Hi" and result["pitch"] == "high" and result["audio"] == "answer.wav"
    assert result["seconds"] == pytest.approx(len(result["units"]) * 0.04)


def test_chat_without_input_takes_the_shipped_example(files, tiny_checkpoint, quick, capsys, monkeypatch) -> None:
    monkeypatch.setattr("emova.cli.chat.EXAMPLES", files)
    assert main(["chat", "--model", str(tiny_checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"]


def test_transcribe(files, tiny_checkpoint, quick, capsys) -> None:
    assert main(["transcribe", "question.wav", "--model", str(tiny_checkpoint), "--quiet"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    both = ["transcribe", "question.wav", "question.wav", "--model", str(tiny_checkpoint), "--json"]
    assert main(both) == 0
    assert [each["audio"] for each in json.loads(capsys.readouterr().out)["files"]] == ["question.wav"] * 2


def test_speak(files, tiny_checkpoint, capsys) -> None:
    arguments = ["speak", "Hi.", "--emotion", "sad", "--pitch", "low", "--voice", "male", "--json"]
    assert main([*arguments, "--model", str(tiny_checkpoint)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["style"] == "gender-male_emotion-sad_pitch-low"
    assert len(load_audio("speech.wav", 24_000)) == 960 * len(result["units"])


def test_tokenize_and_resynthesize(files, tiny_checkpoint, capsys) -> None:
    assert main(["tokenize", "question.wav", "--model", str(tiny_checkpoint)]) == 0
    units = [int(unit) for unit in capsys.readouterr().out.split()]
    assert len(units) == 13
    arguments = ["resynthesize", "question.wav", "--emotion", "angry", "--json", "--out", "angry.wav"]
    assert main([*arguments, "--model", str(tiny_checkpoint)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["units"] == units and result["style"] == "gender-female_emotion-angry_pitch-normal"
    assert len(load_audio("angry.wav", 24_000)) == 960 * 13


def test_info(tiny_checkpoint, capsys) -> None:
    assert main(["info", "--model", str(tiny_checkpoint), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["speech_units"] == 4096 and facts["context"] == 768
    from tests.fixtures_speech import make_speech_tokenizer

    expected = sum(tensor.numel() for tensor in make_speech_tokenizer().state_dict().values())
    assert sum(facts["parameters"]["speech_tokenizer"].values()) == expected
    assert main(["info", "--model", str(tiny_checkpoint)]) == 0
    assert "million parameters" in capsys.readouterr().out


def test_info_tells_what_the_shipped_checkpoint_reads_and_writes_with(capsys, tmp_path) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model = WordModel.load(Path(facts["folder"]) / WORDS)
    assert facts["words"] == len(model.words) and facts["reading_spelling"] == "phones"
    assert main(["info"]) == 0
    assert f"  reads aloud from phones, writes down with {len(model.words):,} words\n" in capsys.readouterr().out

    assert count_words(tmp_path) == 0
    for damage in (
        b"",
        b"[]",
        b"{}",
        b'{"unigrams": {"shape": []}}',
        b'{"unigrams": 3}',
        b'{"unigrams": {"shape": ["x"]}}',
    ):
        (tmp_path / WORDS).write_bytes(len(damage).to_bytes(8, "little") + damage)
        with pytest.raises(InputError, match="damaged"):
            count_words(tmp_path)


def test_commands_of_other_packages_are_found_and_missing_packages_named(monkeypatch, capsys) -> None:
    class Entry:
        def __init__(self, name: str, value: str) -> None:
            self.name, self.value = name, value

    entries = [Entry("data", "no_such_package.cli:register"), Entry("chat", "evil:register"), Entry("zebra", "a:b")]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    commands = cli.find_commands()
    assert list(commands) == [*cli.OWN, "data", "zebra"]
    assert commands["chat"] == "emova.cli.chat:register"
    assert main(["data"]) == 2
    assert capsys.readouterr().err == (
        "emova: data: the package no_such_package is not installed; run pip install 'emova[data]'\n"
    )


def test_ctrl_c_and_inner_errors(monkeypatch, capsys) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (RuntimeError("secret"), 1), (InputError("a\nb"), 2)):
        monkeypatch.setattr(cli, "dispatch", lambda arguments, error=error: (_ for _ in ()).throw(error))
        assert main(["chat"]) == code
        printed = capsys.readouterr().err
        assert printed.startswith("emova: ") and printed.count("\n") == 1 and "secret" not in printed


def test_ctrl_c_leaves_no_file(files, tiny_checkpoint, monkeypatch) -> None:
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["resynthesize", "question.wav", "--model", str(tiny_checkpoint), "--quiet"]) == 130
    assert names(files) == {"question.wav", "photo.png"}


def test_what_a_model_writes_cannot_steer_the_terminal(capsys) -> None:
    import argparse

    common.show(argparse.Namespace(json=False), {}, ["a\x1b[2Jb\rc"])
    assert capsys.readouterr().out == "a [2Jb c\n"


def test_a_pipe_is_read_once(files, tiny_checkpoint) -> None:
    command = [sys.executable, "-m", "emova", "tokenize", "--json", "--model", str(tiny_checkpoint)]
    sound = (files / "question.wav").read_bytes()
    by_path = subprocess.run([*command, "question.wav"], capture_output=True, check=True, cwd=files)
    for name in ("-", "/dev/stdin"):
        piped = subprocess.run([*command, name], input=sound, capture_output=True, check=True, cwd=files)
        assert json.loads(piped.stdout)["units"] == json.loads(by_path.stdout)["units"]
    empty = subprocess.run([*command, "-"], input=b"", capture_output=True, text=False, cwd=files)
    assert empty.returncode == 2 and b"empty" in empty.stderr


def test_words_may_be_piped_in_too(files, quick, tiny_checkpoint, monkeypatch, capsys) -> None:
    import io

    def piped(data: bytes, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main([*arguments, "--model", str(tiny_checkpoint), "--json"])
        return code, *capsys.readouterr()

    for data in (b"Hello.\n", b"\xef\xbb\xbfHello.\r\n"):
        for command, name in ((["chat", "--text"], "transcript"), (["speak"], "text")):
            code, out, _ = piped(data, *command, "-")
            assert code == 0 and json.loads(out)[name] == "Hello."
    for data, said in ((b"\xff\xfe", "not UTF-8"), (b"", "empty"), (b" \n", "empty")):
        for command in (["chat", "--text", "-"], ["speak", "-"]):
            code, _, error = piped(data, *command)
            assert code == 2 and said in error and error.count("\n") == 1
    for command in (["chat", "--image", "-", "--audio", "-"], ["transcribe", "-", "-"]):
        code, _, error = piped(b"x", *command)
        assert code == 2 and "only one input can be piped in" in error
