"""Commands where packages are missing, and where nobody takes what they print: one line, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emova.cli.main import find_commands
from emova.core import extras
from emova_data.cli_sources import KINDS
from emova_train.cli import PROGRAMS

ROOT = Path(__file__).parents[1]
# What emova itself asks for (setup.cfg, install_requires), and what these ask for: not optional.
HIDDEN = (
    "accelerate bitsandbytes deepspeed faster_whisper fastapi gguf gradio h11 jiwer llama_cpp "
    "librosa matplotlib misaki multipart onnx open_clip peft piper pocketsphinx prometheus_client pyarrow "
    "pyworld rapidfuzz ray resvg_py scipy silero_vad sklearn starlette tensorboard trackio uvicorn "
    "wandb webdataset websockets"
)
HIDE = """
import sys
from importlib.machinery import ModuleSpec
class Hidden:  # found by who only looks whether they are there, as torch does; importing them fails
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in HIDDEN else None
    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)
    def exec_module(self, module):
        raise AssertionError
sys.meta_path.insert(0, Hidden())
from emova.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def without_extras(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``emova`` where only what it always needs is installed."""
    code = f"HIDDEN = frozenset({HIDDEN.split()!r})\n{HIDE}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder, check=False, timeout=170
    )


def asks(checkpoint: Path) -> dict[str, list[str]]:
    """Each command and sub-command, called so that it comes as far as to its work."""
    question = str(ROOT / "emova/checkpoints/examples/question.wav")
    model = ["--model", str(checkpoint)]
    calls = {
        "chat": ["chat", "--text", "Hi", *model],
        "transcribe": ["transcribe", question, *model],
        "speak": ["speak", "Hi", *model],
        "tokenize": ["tokenize", question, *model],
        "resynthesize": ["resynthesize", question, *model],
        "info": ["info", *model],
        "export": ["export", "gguf", *model],
        "import": ["import", "emova-tokenizer", str(checkpoint), "--out", "imported"],
        "demo": ["demo", "--port", "17861", *model],
        "serve": ["serve", "--port", "0", *model],
        "data list": ["data", "list"],
        "data make": ["data", "make", "smoke", "--jobs", "1"],
        "data make nano": ["data", "make", "nano", "--only", "sentences", "--jobs", "1"],
        "data stats": ["data", "stats", "librispeech"],
        "data verify": ["data", "verify", "librispeech"],
        "data convert": ["data", "convert", "librispeech", "--from", str(ROOT / "tests/fixtures/sources/librispeech")],
        "data tokenise": ["data", "tokenise", "librispeech", "--tokenizer", str(checkpoint / "speech_tokenizer")],
        "eval nano": ["eval", "nano", *model],
        "eval all": ["eval", "all", "--offline", "--limit", "1", *model],
        "eval latency": ["eval", "latency", *model],
        "eval compare": ["eval", "compare", "a", "b"],
    }
    calls |= {f"data synthesise {kind}": ["data", "synthesise", kind] for kind in KINDS}
    calls |= {f"train {program}": ["train", program] for program in PROGRAMS}
    from emova_bench.cli import BENCHMARKS

    calls |= {f"bench {name}": ["bench", name, "--quick"] for name in BENCHMARKS}
    return calls


def test_every_command_is_tried() -> None:
    assert {call.split()[0] for call in asks(Path())} == set(find_commands())


QUICK = ("chat", "export", "demo", "serve", "data make", "train stage1", "eval nano", "bench decode")


def most_are_slow(names: list[str]) -> list:
    """A few of a kind in each run of the tests, all of them with the slow ones."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", most_are_slow(list(asks(Path()))))
def test_missing_packages_are_told_with_what_brings_them(tmp_path, tiny_checkpoint, name: str) -> None:
    """A command works without them, or says in one line what to run; a fault inside it never is."""
    arguments = asks(tiny_checkpoint)[name]
    done = without_extras(arguments, tmp_path)
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    assert done.returncode in (0, 2), done.stderr
    if "not installed" in last or "missing" in last and "package" in last:
        assert last.startswith("emova: ") and "pip install" in last, last


@pytest.mark.parametrize("name", sorted(set(find_commands())))
def test_help_needs_no_package(tmp_path, name: str) -> None:
    done = without_extras([name, "--help"], tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: emova") and done.stderr == ""


@pytest.mark.parametrize(
    ("name", "extra"),
    [("demo", "demo"), ("serve", "serve"), ("export", "gguf"), ("train stage1", "train"), ("bench decode", "bench")],
)
def test_what_cannot_work_without_a_package_names_its_extra(tmp_path, tiny_checkpoint, name: str, extra: str) -> None:
    arguments = asks(tiny_checkpoint)[name]
    if name == "train stage1":
        arguments = [*arguments, str(ROOT / "configs/stages/nano/stage1.yaml")]
    done = without_extras(arguments, tmp_path)
    assert done.returncode == 2 and f"pip install 'emova[{extra}]'" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("module", "command", "line"),
    [
        ("gradio", "demo", "pip install 'emova[demo]'"),
        ("starlette", "demo", "pip install 'emova[demo]'"),
        ("multipart", "serve", "pip install 'emova[serve]'"),
        ("sklearn", "train", "pip install 'emova[train]'"),
        ("sklearn", "eval", "pip install 'emova[eval]'"),
        ("deepspeed", "train", "pip install 'emova[scale]'"),
        ("ray", "data", "pip install 'emova[ray]'"),
        ("soundfile", "chat", "pip install emova"),
        ("soundfile", "serve", "pip install emova"),
        ("no_such_package", "chat", "pip install emova"),
    ],
)
def test_the_line_brings_the_package(module: str, command: str, line: str) -> None:
    assert extras.install_line(module, command) == line


def test_a_module_of_ours_is_a_fault_and_no_package(capsys, monkeypatch) -> None:
    from emova.cli import main as cli

    def missing(arguments: object) -> int:
        raise ModuleNotFoundError("No module named 'emova.gone'", name="emova.gone")

    monkeypatch.setattr("emova.cli.info.run", missing)
    assert cli.main(["info"]) == 1
    assert "internal error" in capsys.readouterr().err


# --- closed and broken streams ----------------------------------------------------------------------------------------
REDIRECTIONS = (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| true", "2>&1 | true")


@pytest.mark.parametrize("how", REDIRECTIONS)
@pytest.mark.parametrize(
    "name", ["info", *(pytest.param(each, marks=pytest.mark.slow) for each in ("speak", "data list", "wrong", "help"))]
)
def test_nobody_reads(tmp_path, tiny_checkpoint, how: str, name: str) -> None:
    """No traceback, no complaint at the exit, and the files that were asked for are written all the same."""
    calls = asks(tiny_checkpoint) | {"wrong": ["sing"], "help": ["chat", "--help"]}
    words = " ".join(f"'{word}'" for word in calls[name])
    redirected, pipe, reader = how.partition("|")
    script = f"{{ {{ {sys.executable} -m emova {words} {redirected}; echo $? >code; }} {pipe} {reader}; }} 2>told"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=170, stdout=subprocess.DEVNULL)
    told, code = (tmp_path / "told").read_text(), int((tmp_path / "code").read_text())
    assert not any(word in told for word in ("Traceback", "Exception ignored", "internal error")), told
    if name == "wrong":
        assert code == 2
    elif how == ">/dev/full":
        assert code == 2 and "No space left" in told
    else:
        assert code in ((0, 1) if pipe else (0,))
    if name == "speak" and not pipe:
        assert (tmp_path / "speech.wav").stat().st_size > 100


def test_a_missing_module_of_our_own_is_a_fault_and_no_missing_package() -> None:
    for folder in sorted(path.parent for path in ROOT.glob("*/emova_*/__init__.py")):
        assert extras.missing_package(ModuleNotFoundError(name=f"{folder.name}.gone"), "demo") is None, folder
    assert extras.missing_package(ModuleNotFoundError(name="somebody_elses"), "demo") is not None
