"""Compiled code: what it must agree with, who may write where it is kept, and what happens where it cannot be had."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emova.cli.main import main
from emova.core.errors import InputError
from emova.engine.engine import Engine
from emova.engine.llama import Llama
from emova.native import build, compiled, isa, kernel
from emova.native.build import BuildError, find_compiler, library_path, make_private
from emova.native.compiled import CONVOLUTION, STEP
from emova.native.kernel import SWITCH, Kernel
from emova.speech.detokenizer.layers import ConvBlock

BEST = isa.candidates()[0]
NEW: dict[str, Callable[[], Kernel]] = {
    "step.c": lambda: Kernel(STEP.source, STEP._bind, STEP._check),
    "convolution.c": lambda: Kernel(CONVOLUTION.source, CONVOLUTION._bind, CONVOLUTION._check),
}
needs_compiler = pytest.mark.skipif(
    STEP.status().runs == "torch" and os.environ.get(SWITCH) != "require", reason="no compiled code here"
)


@pytest.fixture(autouse=True)
def untold(monkeypatch) -> None:
    """Nothing has been told yet, and the switch is not set."""
    monkeypatch.setattr(kernel, "_told", set())
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture()
def cache(monkeypatch, tmp_path: Path) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emova"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@needs_compiler
@pytest.mark.parametrize("name", NEW)
def test_what_is_shipped_agrees_with_torch(name: str) -> None:
    made = NEW[name]()
    assert made.ready is None  # nothing is built before someone asks for it
    assert made.prepare() is not None and made.ready is made.prepare()
    assert made.status().runs == "compiled" and made.status().why
    with made.off():
        assert made.ready is None
    assert made.ready is not None


@needs_compiler
@pytest.mark.parametrize(
    ("name", "where", "right", "wrong"),
    [
        ("step.c", "step.c", "x[i] * factor * weight[i]", "x[i] * factor"),
        ("step.c", "matrix.h", "to[j][i] *= scale[i]", "to[j][i] *= scale[0]"),
        ("step.c", "matrix.h", "all_int(-8 * ", "all_int(-7 * "),
        ("convolution.c", "convolution.c", "0.5f * x * either", "0.501f * x * either"),
        ("convolution.c", "convolution.c", "k * b->dilation", "k"),
    ],
)
def test_a_wrong_result_is_noticed_and_torch_takes_over(
    name: str, where: str, right: str, wrong: str, tmp_path: Path, cache: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv(isa.CHOICE, BEST.name)  # else the next would be tried, and be as wrong
    shipped = NEW[name]()
    patched = tmp_path / name
    patched.write_text(shipped.source.read_text())
    text = (shipped.source.parent / where).read_text()
    assert text.count(right) == 1
    (tmp_path / where).write_text(text.replace(right, wrong))  # the compiler looks beside the source first
    made = Kernel(patched, shipped._bind, shipped._check)
    with caplog.at_level(logging.WARNING):
        assert made.prepare() is None and made.prepare() is None and made.ready is None
    (line,) = caplog.messages
    assert name in line and "differs from torch" in line and SWITCH in line and "\n" not in line
    assert made.status().runs == "torch" and "differs" in made.status().why


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no C compiler"), ("echo unit.c:1: error: no luck >&2; exit 1", "no luck"), ("exit 0", "says nothing")],
)
def test_without_a_compiler_that_works_torch_decodes_and_speaks(
    text: str | None, reason: str, tiny_model, cache: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", text) if text else tmp_path / "none"))
    fresh = NEW["step.c"](), NEW["convolution.c"]()
    monkeypatch.setattr("emova.engine.llama.STEP", fresh[0])
    monkeypatch.setattr(compiled, "CONVOLUTION", fresh[1])
    with caplog.at_level(logging.WARNING), torch.no_grad():
        engine = Engine(tiny_model)
        assert fresh[1].prepare() is None
        assert isinstance(engine.llama, Llama) and engine.llama.native is None
        hidden = engine.llama.forward([(engine.llama.new_cache(), engine.llama.embed([1, 2, 3]))])
        assert hidden.isfinite().all() and ConvBlock(4, 8, 3)(torch.ones(1, 4, 6)).isfinite().all()
    (line,) = caplog.messages  # both files lack the same compiler, which is told once
    assert reason in line
    assert all(reason in each.status().why for each in fresh)
    assert not list(cache.glob("*.so"))


@needs_compiler
def test_convolutions_do_not_build_while_they_run(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "CONVOLUTION", NEW["convolution.c"]())
    monkeypatch.setattr(kernel, "build", lambda *_: pytest.fail("built inside a request"))
    with torch.no_grad():
        assert ConvBlock(4, 8, 3)(torch.ones(1, 4, 6)).isfinite().all()


@pytest.mark.parametrize("name", NEW)
def test_the_switch(name: str, cache: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with caplog.at_level(logging.WARNING):
        made = NEW[name]()
        monkeypatch.setenv(SWITCH, "0")
        assert made.prepare() is None and "switched off" in made.status().why
        assert not caplog.messages  # what was asked for is no warning
    monkeypatch.setenv(SWITCH, "require")
    with pytest.raises(InputError, match=f"{name}: no C compiler.*{SWITCH}=1"):
        made.prepare()
    assert made.status().runs == "torch"  # `emova info` tells it all the same
    monkeypatch.setenv(SWITCH, "maybe")
    with pytest.raises(InputError, match=f"{SWITCH} must be"):
        made.prepare()


@needs_compiler
def test_switched_off_and_on_again(monkeypatch) -> None:
    made = NEW["convolution.c"]()
    assert made.prepare() is not None
    monkeypatch.setenv(SWITCH, "0")
    assert made.prepare() is None and made.ready is None
    monkeypatch.setenv(SWITCH, "require")
    assert made.prepare() is not None and made.ready is not None


def test_the_cache_is_the_users_own(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "deep" / "emova"
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(BuildError, match="written by others"):
        make_private(folder)
    folder.chmod(0o700)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(BuildError, match="is a link"):
        make_private(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(BuildError, match="another user"):
        make_private(folder)


@needs_compiler
@pytest.mark.parametrize("name", NEW)
def test_a_foreign_cache_is_not_used(name: str, cache: Path, monkeypatch, caplog) -> None:
    cache.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    made = NEW[name]()
    with caplog.at_level(logging.WARNING):
        assert made.prepare() is None
    assert "another user" in caplog.messages[0] and not list(cache.iterdir())


@needs_compiler
def test_what_lies_in_the_cache_is_a_whole_file_of_ours(cache: Path, tmp_path: Path) -> None:
    path = library_path(CONVOLUTION.source, BEST, find_compiler())
    make_private(cache)
    path.write_bytes(b"half a file")
    assert NEW["convolution.c"]().prepare() is not None
    assert list(cache.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o700
    whole = path.read_bytes()
    planted = tmp_path / "planted.so"
    planted.write_bytes(whole)
    path.unlink()  # never written over: this process runs it
    path.symlink_to(planted)
    assert NEW["convolution.c"]().prepare() is not None
    assert not path.is_symlink() and planted.read_bytes() == whole


@needs_compiler
def test_the_key_holds_what_changes_the_code(cache: Path, tmp_path: Path, monkeypatch) -> None:
    paths = [library_path(STEP.source, BEST, find_compiler())]
    newer = script(tmp_path / "newer", "echo cc 99.1")
    paths += [library_path(STEP.source, BEST, [str(newer)])]
    script(newer, "echo cc 99.2")
    build.compiler_version.cache_clear()
    paths += [library_path(STEP.source, BEST, [str(newer)])]
    monkeypatch.setattr(build, "FLAGS", ("-O2",))
    paths += [library_path(STEP.source, BEST, [str(newer)])]
    monkeypatch.setattr(build, "cpu_features", lambda: frozenset({"other"}))
    paths += [library_path(STEP.source, BEST, [str(newer)])]
    changed = tmp_path / "step.c"
    changed.write_text(STEP.source.read_text() + "\n")
    paths += [library_path(changed, BEST, [str(newer)])]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(("mode", "said"), [("0", "torch, switched off"), ("1", "")])
def test_info_says_what_runs_and_why(mode: str, said: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv(SWITCH, mode)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for what, each in compiled.statuses().items():
        assert f"{what} on this machine's CPU: {each.runs}, {each.why}" in text and said in text
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["native"]
    assert facts == {name: {"runs": each.runs, "why": each.why} for name, each in compiled.statuses().items()}
