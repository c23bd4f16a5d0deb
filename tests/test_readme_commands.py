"""Every command of every document is run: to its end, until it serves, or up to the line that names what is missing.

A new command needs nothing here if it ends well in a folder that holds a picture and a spoken question.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT, Command, blocks, commands

EXAMPLES = ROOT / "emova" / "checkpoints" / "examples"
MISSING = {
    "emova eval nano": "emova data fetch nano",
    "emova eval all --data benchmarks": "benchmarks",
    "emova eval docvqa": "val.json",
    "emova eval own": "my-folder",
    "emova eval latency --endpoint": "127.0.0.1",
    "emova eval compare": "runs/a",
    "emova eval codecs --data": "docs/codecs.md",
    "emova eval codecs 'mine": "runs/my-s2u/export",
    "emova train all": "data",
    "emova train stage2 sets/paper/stage2 --dry-run": "runs/",
    "emova train --launch": "runs/",
    "emova train pseudo-labels": "data/nano/speech",
    "emova train glm-codec": "data/nano/speech",
    "emova train vq": "data/downloads",
    "emova train flow": "runs/vq-nano",
    "emova train prototypes": "runs/flow-nano-blocks",
    "emova train kmeans": "data/nano/speech",
    "emova train text-to-token": "runs/tokenizer-nano",
    "emova train stage2 sets/glm-voice": "runs/tokenizer-nano",
    "emova train stage3 sets/glm-voice": "runs/glm-voice-nano-pretrain",
    "emova data synthesise interleaved": "runs/text-to-token-nano",
    "emova data synthesise dialogues": "runs/text-to-token-nano",
    "emova data convert data/nano/text": "data/nano/text",
    "emova train tokenizer --extend": "Llama-3.1-8B",
    "emova bench vocoder": "data/nano",
    "emova bench latency --tokenizer": "runs/vq-nano",
    "emova import": "hub",
    "emova import emova-hf": "emova-speech",
    "emova resynthesize question.wav --model emova-speech": "emova-speech",
    "emova chat --model emova-7b": "emova-7b",
    "emova export gguf --dtype q4_k_m --model emova-7b": "emova-7b",
    "emova export emova-hf": "emova-7b",
    "emova export emova-tokenizer": "emova-speech",
    "emova resynthesize question.wav --model glm-speech": "glm-speech",
    "emova export glm-4-voice": "glm-speech",
    "emova export gguf --dtype q4_k_m": "emova[llamacpp]",
    "emova chat --gguf": "no such file",
    "python -m emova_eval.adapters.run_lmms_eval": "lmms",
}
"""Commands that need data, a hub or another program: they end with 2 and one line, and that line has this in it."""
ELSEWHERE = {
    "emova data convert my-": "tests/test_train_your_own.py",
    "emova data tokenise messages": "tests/test_train_your_own.py",
    "emova data tokenise speech": "tests/test_train_your_own.py",
    "emova data questions speech": "tests/test_train_your_own.py",
    "emova train stage3 own": "tests/test_train_your_own.py",
    "emova train s2u own": "tests/test_train_your_own.py",
    "emova train u2s own": "tests/test_train_your_own.py",
    "emova train assemble --model": "tests/test_train_your_own.py",
    "emova chat --model my-": "tests/test_train_your_own.py",
    "emova eval own --model my-words": "tests/test_train_your_own.py",
    "emova train all --size nano --profile smoke": "tests/train/test_all.py",
    "emova data make nano --jobs 2": "tests/data_recipes",
    "emova bench paradigms": "tests/test_paradigms.py",
    "emova bench codecs": "tests/train/test_codecs_learning.py",
    "emova bench rates": "tests/train/test_codecs_learning.py",
}
"""Commands that take long; where a shorter form of them is run."""
SLOW = ("emova bench", "emova eval all --offline")
"""Run in their quick form, by the slow tests."""


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}


def listed(*starts: str, slow: bool = False) -> list[Command]:
    """The commands that begin with one of ``starts`` and are run here."""
    return [
        command
        for command in commands()
        if command.line.startswith(starts)
        and not command.line.startswith(tuple(ELSEWHERE))
        and command.line.startswith(SLOW) == slow
    ]


def find(table: dict[str, str], line: str) -> str | None:
    """What ``table`` has for the longest key that ``line`` begins with."""
    keys = [key for key in table if line.startswith(key)]
    return table[max(keys, key=len)] if keys else None


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A user's folder: a picture and a question."""
    shutil.copy(EXAMPLES / "photo.png", tmp_path / "photo.png")
    shutil.copy(EXAMPLES / "question.wav", tmp_path / "question.wav")
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(line: str, folder: Path) -> None:
    """Run ``line`` in ``folder``: it ends well and leaves what it promises, or names what is missing in one line."""
    wanted = find(MISSING, line)
    line = line.replace("--launch", "--only-write --launch")  # what is then launched is proven by tests/train
    done = subprocess.run(shlex.split(line), cwd=folder, env=environment(), capture_output=True, text=True)
    if wanted is None or done.returncode == 0:
        assert done.returncode == 0, done.stderr[-2000:]
        for out in re.findall(r"--out (\S+)", line):
            assert (folder / out).exists(), out
    else:
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and lines and wanted in lines[-1], done.stderr[-2000:]
        assert "Traceback" not in done.stderr


NO_SERVER = [command for command in listed("emova ", "python -m ") if not re.match("emova (serve|demo)", command.line)]


@pytest.mark.parametrize("command", NO_SERVER, ids=str)
def test_a_command_ends_well_or_names_what_is_missing(command: Command, folder: Path) -> None:
    check(command.line, folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", listed("emova ", slow=True), ids=str)
def test_a_long_command_in_its_quick_form(command: Command, folder: Path) -> None:
    check(command.line + (" --quick" if command.line.startswith("emova bench") else ""), folder)


@pytest.mark.parametrize("key", [*MISSING, *ELSEWHERE])
def test_the_tables_name_commands_that_are_there(key: str) -> None:
    assert any(command.line.startswith(key) for command in commands())
    assert key not in ELSEWHERE or (ROOT / ELSEWHERE[key]).exists()


@pytest.fixture()
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The address of the command's server, which ends by SIGTERM as it should."""
    line: str = request.param.line
    port = free_port()
    words = shlex.split(re.sub(r" --(port \S+|open)", "", line))
    key = {"EMOVA_API_KEY": "a" * 32} if "0.0.0.0" in line else {}
    with subprocess.Popen([*words, "--port", str(port)], cwd=folder, env={**environment(), **key}) as process:
        try:
            yield wait_for(f"http://127.0.0.1:{port}", "/healthz" if words[1] == "serve" else "/", process)
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(60)
    # Whoever was asked to end by a signal says so when all is tidied up, as a shell and a service manager expect it.
    assert ended == -signal.SIGTERM


def wait_for(address: str, path: str, process: subprocess.Popen[bytes]) -> str:
    """``address``, once it answers."""
    until = time.monotonic() + 150
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address + path, timeout=5):
                return address
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server never answered")


SERVERS = [
    command for command in listed("emova serve", "emova demo") if not re.search("--(replicas|backend)", command.line)
]


@pytest.mark.parametrize("server", SERVERS, indirect=True, ids=str)
def test_a_server_answers_and_ends(server: str) -> None:
    assert server


@pytest.mark.parametrize("server", [Command(ROOT / "app/README.md", "emova serve")], indirect=True, ids=str)
def test_curls_get_what_they_ask_for(server: str, folder: Path) -> None:
    lines = [command.line for command in commands() if command.line.startswith("curl ")]
    assert lines and shutil.which("curl")
    for line in lines:
        words = shlex.split(line.replace("http://127.0.0.1:8000", server))
        done = subprocess.run([*words, "--fail", "--silent"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, line


@pytest.mark.parametrize("server", [Command(ROOT / "app/README.md", "emova serve")], indirect=True, ids=str)
def test_programs_that_chat_run_as_they_stand(server: str, folder: Path) -> None:
    bodies = [body for _, body in blocks("python") if "client.chat.completions" in body]
    assert len(bodies) >= 2
    for body in bodies:
        program = body.replace("http://127.0.0.1:8000", server)
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("command", [each for each in commands() if each.line.startswith("make ")], ids=str)
def test_make_targets_exist(command: Command) -> None:
    subprocess.run(["make", "--dry-run", shlex.split(command.line)[1]], cwd=ROOT, check=True, capture_output=True)


def test_every_kind_of_command_is_run_by_a_test() -> None:
    known = ("emova ", "make ", "curl ", "python -m ", "pip install ", "export ", "git clone ", "cd ")
    assert not [str(command) for command in commands() if not command.line.startswith(known)]


def test_make_chat_takes_the_users_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    image, audio, out = folder / "a picture.png", folder / "a question.wav", folder / "answers" / "one.wav"
    shutil.copy(EXAMPLES / "photo.png", image)
    shutil.copy(EXAMPLES / "question.wav", audio)
    # Whatever this environment was set up by, it is set up: make is told that nothing of it is new.
    made = [f"--old-file={sys.prefix}/{stamp}" for stamp in (".chat", ".torch", "bin/python")]
    command = ["make", *made, "chat", f"VENV={sys.prefix}", f"IMAGE={image}", f"AUDIO={audio}", f"OUT={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 1000 and out.name in done.stdout
    image.write_text("no picture")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0 and "a picture.png" in refused.stderr and "Traceback" not in refused.stderr
