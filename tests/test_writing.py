"""Files appear whole or not at all, whatever ends the writing: an error, a signal, a kill, a full or read-only disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from emova.cli.main import main
from emova.core.errors import InputError
from emova.core.writing import check_writable, make_folder, save_tensors, staged_output, write_bytes, write_text

LONG = "ä" * 120 + ".gguf"  # 245 bytes: with ours around it, longer than a name may be


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["a.wav", LONG, "with [brackets] *.txt"])
def test_whole_or_as_before(tmp_path, name: str) -> None:
    path = tmp_path / name
    write_text(path, "ä one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and names(tmp_path) == {name}
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), staged_output(path) as file:
            file.write(b"half")
            raise error
        assert path.read_bytes() == b"two" and names(tmp_path) == {name}
    check_writable(path)
    assert path.read_bytes() == b"two" and names(tmp_path) == {name}


def test_errors_of_other_files_are_not_told_of_this_one(tmp_path) -> None:
    with pytest.raises(FileNotFoundError), staged_output(tmp_path / "a"):
        (tmp_path / "other").read_bytes()
    with pytest.raises(BrokenPipeError), staged_output(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "gone")
    assert not names(tmp_path)


# --- kills ------------------------------------------------------------------------------------------------------------
def killed_while_writing(path: Path, number: signal.Signals) -> None:
    code = (
        "import os, sys\nfrom emova.core.writing import staged_output\n"
        f"with staged_output({str(path)!r}) as file:\n"
        f"    file.write(b'half'); file.flush(); os.kill(os.getpid(), {int(number)})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -number


@pytest.mark.parametrize("name", ["a.tar", LONG])
def test_what_a_kill_leaves_goes_with_the_next_writing(tmp_path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    killed_while_writing(path, signal.SIGKILL)
    assert path.read_bytes() == b"before" and len(names(tmp_path)) == 2, "the kill left its file"
    write_bytes(tmp_path / "another", b"")
    assert len(names(tmp_path)) == 3, "it is no leftover of another file"
    write_bytes(path, b"after")
    assert path.read_bytes() == b"after" and names(tmp_path) == {name, "another"}
    killed_while_writing(path, signal.SIGKILL)
    with pytest.raises(ZeroDivisionError), staged_output(path):
        raise ZeroDivisionError
    assert names(tmp_path) == {name, "another"}


def test_two_writers_at_once_do_not_remove_each_others_file(tmp_path) -> None:
    path = tmp_path / "a"
    with staged_output(path) as first:
        first.write(b"first")
        with staged_output(path) as second:
            second.write(b"second")
            assert len(names(tmp_path)) == 2
        assert path.read_bytes() == b"second"
        subprocess.run(
            [sys.executable, "-c", f"from emova.core.writing import write_bytes; write_bytes({str(path)!r}, b'third')"],
            check=True,
        )
        assert path.read_bytes() == b"third" and len(names(tmp_path)) == 2
    assert path.read_bytes() == b"first" and names(tmp_path) == {"a"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, tiny_checkpoint, number: signal.Signals) -> None:
    """Between the head of the GGUF and its tensors; after SIGKILL the next export cleans up."""
    pytest.importorskip("gguf")
    out = tmp_path / "out.gguf"
    code = (
        "import signal, sys, time, gguf\nfrom emova.cli.main import main\n"
        # As in a terminal, whatever ignores signals around the tests (nohup, a shell's background).
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(self):\n    print('writing', flush=True)\n    time.sleep(60)\n"
        "gguf.GGUFWriter.write_tensors_to_file = wait\n"
        f"sys.exit(main(['export', 'gguf', '--quiet', '--model', {str(tiny_checkpoint)!r}, '--out', {str(out)!r}]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline() == b"writing\n"
        assert len(names(tmp_path)) == 1
        running.send_signal(number)
        _, said = running.communicate(timeout=170)
    assert b"Traceback" not in said
    if number == signal.SIGKILL:
        assert len(names(tmp_path)) == 1
        assert main(["export", "gguf", "--quiet", "--model", str(tiny_checkpoint), "--out", str(out)]) == 0
        assert names(tmp_path) == {"out.gguf"}
    else:
        assert names(tmp_path) == set()
        assert running.returncode == (130 if number == signal.SIGINT else -number)


def test_a_child_that_was_forked_ends_at_once(tmp_path) -> None:
    """Only the process of the command answers a signal by cleaning up; pools end their workers as ever."""
    code = (
        "import os, signal, time\nfrom emova.core.process import stoppable\n"
        "with stoppable():\n"
        "    child = os.fork()\n"
        "    if not child:\n        time.sleep(60)\n"
        "    time.sleep(0.3)\n    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{-signal.SIGTERM}\n" and done.stderr == "" and time.monotonic() - started < 30


# --- disks ------------------------------------------------------------------------------------------------------------
def own_disk(options: str, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``command`` where ``folder`` is a disk of its own, mounted in a namespace of this command alone."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a test mount a disk of its own")
    script = f"mount -t tmpfs -o {options} tmpfs {folder} && {command}"
    return subprocess.run([unshare, "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)


def commands(out: str, checkpoint: Path) -> dict[str, list[str]]:
    """Every command that writes a file or folder that its user names."""
    model = ["--quiet", "--model", str(checkpoint)]
    example = str(Path("emova/checkpoints/examples/question.wav").resolve())
    return {
        "chat": ["chat", "--text", "Hi", "--out", f"{out}/a.wav", *model],
        "speak": ["speak", "Hi", "--out", f"{out}/a.wav", *model],
        "resynthesize": ["resynthesize", example, "--out", f"{out}/a.wav", *model],
        "export": ["export", "gguf", "--out", f"{out}/a.gguf", *model],
        "eval": ["eval", "all", "--offline", "--limit", "1", "--out", f"{out}/a", "--model", str(checkpoint)],
        "compare": ["eval", "compare", "x", "y", "--out", f"{out}/a"],
        "data": ["data", "convert", "librispeech", "--from", "tests/fixtures/sources/librispeech", "--out", f"{out}/a"],
        "train": [
            "train",
            "--launch",
            "slurm",
            "--only-write",
            "--elsewhere",
            "--launch-dir",
            f"{out}/a",
            "stage2",
            "paper/stage2",
        ],
        "bench": ["bench", "load", str(checkpoint), "--quick", "--sessions", "1", "--output", f"{out}/a"],
    }


@pytest.mark.parametrize("name", list(commands("", Path())))
def test_a_read_only_disk_is_told_by_the_users_name(tmp_path, tiny_checkpoint, name: str) -> None:
    if name == "compare":
        pytest.skip("it needs two runs; it writes as the others do")
    given = " ".join(commands(str(tmp_path), tiny_checkpoint)[name])
    done = own_disk("ro", f"{sys.executable} -m emova {given}", tmp_path)
    wanted = next(word for word in given.split() if word.startswith(f"{tmp_path}/a"))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("emova: ") and wanted in last and "read-only" in last.lower() and "partial" not in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["chat", "speak", "export"])
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, tiny_checkpoint, name: str) -> None:
    given = " ".join(commands(str(tmp_path), tiny_checkpoint)[name])
    done = own_disk(
        "size=4k", f"{{ {sys.executable} -m emova {given}; code=$?; ls -A {tmp_path}; exit $code; }}", tmp_path
    )
    assert done.returncode == 2 and done.stdout == "", done
    last = done.stderr.strip().splitlines()[-1]
    assert f"{tmp_path}/a" in last and "disk is full" in last and "partial" not in last


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EACCES, "permissions")],
)
def test_every_writer_names_the_users_file(tmp_path, monkeypatch, number: int, words: str) -> None:
    """Whichever step the system refuses: the making of the file, its bytes, its flush or its name."""
    path = tmp_path / "mine.bin"

    def refuse(*given: object, **_: object) -> None:
        names = [str(each) for each in given if isinstance(each, (str, Path))]
        raise OSError(number, os.strerror(number), *names[:1])

    writers = (
        lambda: write_bytes(path, b"x"),
        lambda: save_tensors(path, {"a": torch.zeros(2)}),
        lambda: make_folder(tmp_path / "mine.bin" / "inner"),
    )
    for place, name in (("pathlib.Path.open", 0), ("os.fsync", 0), ("os.replace", 0), ("pathlib.Path.mkdir", 2)):
        with monkeypatch.context() as patched:
            patched.setattr(place, refuse)
            for writer in writers[name:] if name else writers[:2]:
                if place == "os.fsync" and number in (errno.EROFS, errno.EACCES):
                    continue
                with pytest.raises(InputError) as told:
                    writer()
                assert "mine.bin" in str(told.value) and words in str(told.value) and "partial" not in str(told.value)
        assert not names(tmp_path)
