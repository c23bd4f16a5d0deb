"""The built wheel in an environment of its own, away from the checkout: commands work, and no one's names are taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("", "_torch", "_train", "_eval", "_data", "_app", "_bench", "_configs")
PACKAGES = {f"emova{name}" for name in OURS}
FOLDERS = ("train", "eval", "app", "data_recipes", "benchmarks", "configs", "tests")
pytestmark = pytest.mark.timeout(900)


def clean_environment() -> dict[str, str]:
    """This process's variables without what leads to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel and sees this environment's other packages."""

    wheel: Path
    folder: Path

    def run(self, *command: str, cwd: Path, python_path: str = "") -> subprocess.CompletedProcess[str]:
        """One of the environment's programs, as a user starts it in ``cwd``."""
        environment = {**clean_environment(), "OMP_NUM_THREADS": "2", "COLUMNS": "120"}
        if python_path:
            environment["PYTHONPATH"] = python_path
        program, *arguments = command
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """Built from a copy without a network, as ``pip install .`` does it."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build")
    for name in ("emova", "emova_torch", *FOLDERS[:-1]):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-index", "--no-build-isolation", "-w", str(place)]
    quiet = {"cwd": place, "env": clean_environment(), "check": True, "capture_output": True, "timeout": 600}
    subprocess.run(build, **quiet)
    (wheel,) = place.glob("*.whl")
    shutil.rmtree(source)
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], **quiet)
    into = [*pip, "--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(into, **quiet)
    # Only the folders are added: an editable emova there is found by a .pth file of its own, which is not read.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return Installed(wheel, environment)


@pytest.fixture()
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a user's own files, which nothing may import."""
    mine = [f"{name}.py" for name in ("train", "app", "torch_utils", "data_recipes", "emova_utils", "config", "speech")]
    mine += ["eval/__init__.py", "benchmarks/__init__.py", "configs/__init__.py", "tests/__init__.py"]
    mine += ["model/__init__.py", "session/__init__.py", "decoding.py", "events.py", "native.py", "vision.py"]
    for name in mine:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise RuntimeError('the user\\'s own {name}')\n")
    return tmp_path


def test_the_wheel_holds_our_packages_and_no_other_name(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert not [name for name in names if name.endswith(".pyc")]
    for kept in (
        "emova/py.typed", "emova/native/step.c", "emova/checkpoints/emova-nano/model.safetensors",
        "emova_configs/stages/nano/stage1.yaml", "emova_eval/fixtures/questions.jsonl",
    ):  # fmt: skip
        assert kept in names, kept


@pytest.mark.parametrize("name", FOLDERS)
def test_our_folders_are_no_modules(name: str, installed: Installed, tmp_path: Path) -> None:
    done = installed.run("python", "-c", f"import {name}", cwd=tmp_path)
    assert done.returncode and f"No module named '{name}'" in done.stderr


def test_it_is_the_installed_one_that_runs(installed: Installed, elsewhere: Path) -> None:
    code = "import emova, emova_train, emova_eval, emova_data, emova_app, emova_bench, emova_configs, sys\n"
    code += "print(*{m.__file__ for n, m in sys.modules.items() if n.split('.')[0].startswith('emova')}, sep='\\n')"
    done = installed.run("python", "-I", "-c", code, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(installed.folder) for line in done.stdout.split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("chat --json", '"text"'),
        ("demo --help", "--port"),
        ("serve --help", "--port"),
        ("info", "emova-nano"),
        ("train --help", "stage1"),
        ("eval --help", "nano"),
        ("data list", "nano"),
        ("bench --help", "decode"),
    ],
)
def test_commands_work_beside_a_users_own_files(command: str, said: str, installed: Installed, elsewhere: Path) -> None:
    done = installed.run("emova", *command.split(), cwd=elsewhere)
    assert done.returncode == 0 and said in done.stdout, done.stderr
    assert "the user's own" not in done.stdout + done.stderr


def test_the_shipped_example_is_answered_as_in_the_checkout(installed: Installed, elsewhere: Path) -> None:
    answers = []
    here = [sys.executable, "-m", "emova", "chat", "--json"]
    for done in (
        installed.run("emova", "chat", "--json", cwd=elsewhere),
        subprocess.run(here, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300),
    ):
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        answers.append({name: answer[name] for name in ("transcript", "text", "emotion", "pitch")})
    assert answers[0] == answers[1] and answers[0]["text"]


@pytest.mark.parametrize(
    "first", ["from transformers import LlamaForCausalLM", "import torch, torchvision", "import timm, open_clip"]
)
def test_torchvision_imports_before_emova_does(first: str, installed: Installed, elsewhere: Path) -> None:
    """Beside a CPU build of torch too, for which the package index has no torchvision; and torch alone stays alone."""
    code = f"import sys, torch\nassert 'torchvision' not in sys.modules\n{first}\nassert 'emova' not in sys.modules\n"
    done = installed.run("python", "-c", code, cwd=installed.folder)
    assert done.returncode == 0, done.stderr


def test_python_m_emova_beside_a_users_own_files(installed: Installed, elsewhere: Path) -> None:
    """There the folder itself is on the path, before the installed packages."""
    done = installed.run("python", "-m", "emova", "info", cwd=elsewhere, python_path=str(elsewhere))
    assert done.returncode == 0 and "emova-nano" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["nano/stage1", "configs/stages/nano/stage1.yaml", "mini/stage1"])
def test_shipped_configs_are_found_by_name(name: str, installed: Installed, elsewhere: Path) -> None:
    """Up to what only the user can have: data, or what an earlier stage made of it."""
    done = installed.run("emova", "train", "stage1", name, cwd=elsewhere)
    assert done.returncode == 2 and done.stderr.startswith("emova: ") and done.stderr.count("\n") == 1, done.stderr
    assert "no such config" not in done.stderr
    if name == "mini/stage1":  # nobody ships a tower of its size: it must be named
        assert "init.vision" in done.stderr
    else:
        assert "emova: runs/" in done.stderr and "run " in done.stderr


def test_a_config_that_nobody_ships_is_named(installed: Installed, elsewhere: Path) -> None:
    done = installed.run("emova", "train", "stage1", "nano/stage9", cwd=elsewhere)
    assert done.returncode == 2 and "nano/stage9" in done.stderr and "nano/stage1" in done.stderr


def test_lmms_eval_finds_us(installed: Installed, elsewhere: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(entry,) = [each for each in entry_points(group='lmms_eval.models') if each.name == 'emova']\n"
        "print(entry.load().__module__)\n"
        "import importlib.util; print(importlib.util.find_spec('emova_eval.adapters.lmms_eval_model').origin)\n"
    )
    done = installed.run("python", "-c", code, cwd=installed.folder)
    module, origin = done.stdout.split() if done.returncode == 0 else ("", done.stderr)
    assert module == "emova_eval.adapters.lmms_eval_manifest" and Path(origin).is_relative_to(installed.folder), origin
