"""What the README shows works: its commands parse, its Python names exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path for name in ("", "train", "eval", "app", "benchmarks") if (path := ROOT / name / "README.md").exists()
]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (path, body)
        for path in DOCUMENTS
        for name, body in BLOCK.findall(path.read_text(encoding="utf-8"))
        if name == language
    ]


def shell_commands() -> list[str]:
    lines = [line.split(" #")[0].strip() for _, body in blocks("bash") for line in body.splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


@pytest.mark.parametrize("command", [line for line in shell_commands() if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target = shlex.split(command)[1]
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_make_chat_takes_the_users_own_files(tmp_path: Path) -> None:
    examples, folder = ROOT / "emova" / "checkpoints" / "examples", tmp_path / "my files"
    folder.mkdir()
    image, audio, out = folder / "a picture.png", folder / "a question.wav", folder / "answers" / "one.wav"
    shutil.copy(examples / "photo.png", image)
    shutil.copy(examples / "question.wav", audio)
    # Whatever this environment was set up by, it is set up: make is told that nothing of it is new.
    made = [f"--old-file={sys.prefix}/{stamp}" for stamp in (".chat", ".torch", "bin/python")]
    command = ["make", *made, "chat", f"VENV={sys.prefix}", f"IMAGE={image}", f"AUDIO={audio}", f"OUT={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 1000 and out.name in done.stdout
    image.write_text("no picture")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0 and "a picture.png" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", [line for line in shell_commands() if line.startswith("emova ")])
def test_emova_commands_parse(command: str) -> None:
    from emova.cli.main import Parser, _register, find_commands

    name, *words = shlex.split(command)[1:]
    parser = Parser()
    _register(name, find_commands()[name])(parser)
    assert callable(parser.parse_args(words).run)


@pytest.mark.parametrize("command", [line for line in shell_commands() if line.startswith("python -m ")])
def test_modules_explain_themselves(command: str) -> None:
    module = shlex.split(command)[2]
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout


def test_python_examples_compile_and_their_names_exist() -> None:
    import emova

    for path, body in blocks("python"):
        compile(body, str(path), "exec")
        for names in re.findall(r"from emova import (.+)", body):
            for name in names.split(","):
                assert hasattr(emova, name.strip())


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
