"""What can be wrong with a release, for each importer: one clear line, and nothing that is half written."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emova.checkpoint.importing import causal_lm, source
from emova.cli.main import main
from tests.fixtures_families import FAMILIES, write_family
from tests.importing.fixtures_glm import write_language_release, write_speech_releases
from tests.importing.fixtures_model import write_model_release
from tests.importing.official import TOKENIZER_CONFIG, emova_tokenizer, write_release


@dataclass(frozen=True)
class Release:
    """One importer's release, and the words that import it.

    Attributes:
        part: the folder of the weights that are spoilt, below the release's.
        words: the command without its ``--out``, of the release's folder and that of EMOVA's speech parts.
    """

    part: str
    write: Callable[[Path], object]
    words: Callable[[Path, Path], list[str]]


def _glm(folder: Path) -> None:
    write_speech_releases(folder)
    write_language_release(folder / "language")


RELEASES = {
    "emova-tokenizer": Release(
        "release",
        lambda folder: write_release(folder / "release", emova_tokenizer(), TOKENIZER_CONFIG, 2),
        lambda folder, speech: ["emova-tokenizer", f"{folder}/release"],
    ),
    "emova-hf": Release(
        "release",
        lambda folder: write_model_release(folder / "release"),
        lambda folder, speech: ["emova-hf", f"{folder}/release", "--speech", str(speech)],
    ),
    "glm-4-voice": Release(
        "language",
        _glm,
        lambda folder, speech: [
            "glm-4-voice", f"{folder}/tokenizer", "--decoder", f"{folder}/decoder", "--language-model",
            f"{folder}/language",
        ],
    ),
    "causal-lm": Release(
        "release",
        lambda folder: write_family(folder / "release", FAMILIES["qwen3"]),
        lambda folder, speech: ["causal-lm", f"{folder}/release", "--speech", "emova-nano"],
    ),
}  # fmt: skip


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def another_kind(folder: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "model_type": "telepath"}))


def partial(folder: Path) -> None:
    """One tensor is missing, in the index too."""
    file = weights(folder)[0]
    state = load_file(file)
    lost = next(name for name, tensor in sorted(state.items()) if tensor.dim() > 1 and "mask" not in name)
    del state[lost]
    save_file(state, file)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    del said["weight_map"][lost]
    index.write_text(json.dumps(said))


def later(folder: Path) -> None:
    """One tensor more than is known."""
    file = weights(folder)[0]
    save_file({**load_file(file), "model.telepathy.weight": torch.ones(2, 2)}, file)


def missing_shard(folder: Path) -> None:
    weights(folder)[-1].unlink()


def cut_short(folder: Path) -> None:
    file = weights(folder)[0]
    file.write_bytes(file.read_bytes()[:-9])


def no_number(folder: Path) -> None:
    for file in weights(folder):
        state = load_file(file)
        save_file(
            {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state.items()},
            file,
        )


class Runs:
    """Unpickled it would leave a file."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


def code_in_a_pickle(folder: Path) -> None:
    for file in weights(folder):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Runs()}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "another kind": (another_kind, "telepath"),
    "partial": (partial, "lacks"),
    "later": (later, "model.telepathy.weight"),
    "missing shard": (missing_shard, "missing"),
    "cut short": (cut_short, "cut short"),
    "no number": (no_number, "no number"),
    "code in a pickle": (code_in_a_pickle, "can run code"),
    "no config": (no_config, "config.json"),
    "no object": (no_object, "damaged"),
    "empty": (empty, "missing"),
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    release = write_release(folder / "release", emova_tokenizer(), TOKENIZER_CONFIG)
    assert main(["import", "emova-tokenizer", str(release), "--out", str(folder / "imported"), "--quiet"]) == 0
    return folder / "imported"


@pytest.fixture(scope="module", params=RELEASES)
def whole(request, tmp_path_factory) -> tuple[Release, Path]:
    folder = tmp_path_factory.mktemp("whole") / "whole"
    folder.mkdir()
    RELEASES[request.param].write(folder)
    return RELEASES[request.param], folder


def refused(words: list[str], out: Path, capsys) -> str:
    """The one line that an import ends with. It writes nothing, and leaves nothing half written beside it."""
    capsys.readouterr()  # what making the release printed
    before = sorted(path.name for path in out.parent.iterdir())
    with warnings.catch_warnings():  # outside of pytest a warning is a line too
        warnings.filterwarnings("error", message="Detected pickle protocol")
        assert main(["import", *words, "--out", str(out), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sorted(path.name for path in out.parent.iterdir()) == before
    assert len(line) < 400
    return line


@pytest.mark.parametrize("wrong", WRONG)
def test_a_release_that_is_wrong_is_one_line(whole, speech, wrong, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    release, folder = whole
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    spoil, told = WRONG[wrong]
    spoil(spoilt / release.part)
    assert told in refused(release.words(spoilt, speech), tmp_path / "out", capsys)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["emova-hf", "causal-lm"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 80}, {"hidden_size": "wide"}, {"num_attention_heads": None}])
def test_a_configuration_that_makes_no_model_is_one_line(kind, change, speech, tmp_path, capsys) -> None:
    """The list of layers that stands beside it is of another length; a size is none."""
    release = RELEASES[kind]
    release.write(tmp_path)
    path = tmp_path / release.part / "config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, **change}))
    assert "config.json gives no qwen" in refused(release.words(tmp_path, speech), tmp_path / "out", capsys)


def test_too_little_memory_is_told_before_a_tensor_is_read(whole, speech, tmp_path, capsys, monkeypatch) -> None:
    release, folder = whole
    monkeypatch.setattr(source, "available_memory", lambda: 1000)
    monkeypatch.setattr(source.Tensors, "__getitem__", lambda self, name: pytest.fail(f"{name} was read"))
    assert "GiB of memory" in refused(release.words(folder, speech), tmp_path / "out", capsys)


def test_a_file_that_is_too_large_to_be_opened_is_one_line(whole, speech, tmp_path, capsys, monkeypatch) -> None:
    def refuses(path: Path, framework: str) -> None:
        raise RuntimeError(f"unable to mmap 140952664112 bytes from file <{path}>: Cannot allocate memory (12)")

    release, folder = whole
    monkeypatch.setattr(source, "safe_open", refuses)
    line = refused(release.words(folder, speech), tmp_path / "out", capsys)
    assert "in one file" in line and "shards" in line


def test_a_hub_out_of_reach_is_one_line(whole, speech, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    release, folder = whole
    words = release.words(folder, speech)
    named = [word if not word.startswith(str(folder)) else "nobody-at-all/no-such-release" for word in words]
    assert "nobody-at-all/no-such-release: cannot be fetched" in refused(named, tmp_path / "out", capsys)


def test_an_output_that_is_there_stays_as_it_is(whole, speech, tmp_path, capsys) -> None:
    release, folder = whole
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused(release.words(folder, speech), tmp_path / "out", capsys)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_units_of_one_tokenizer_with_the_voice_of_another_are_refused(speech, tmp_path, capsys) -> None:
    """Before a language model learns on them."""
    mixed = tmp_path / "mixed"
    shutil.copytree(speech, mixed)
    glm = write_speech_releases(tmp_path / "glm")
    words = ["import", "glm-4-voice", str(glm / "tokenizer"), "--decoder", str(glm / "decoder"), "--quiet"]
    assert main([*words, "--out", str(tmp_path / "other")]) == 0
    shutil.rmtree(mixed / "speech_tokenizer")
    shutil.copytree(tmp_path / "other" / "speech_tokenizer", mixed / "speech_tokenizer")
    family = write_family(tmp_path / "family", FAMILIES["qwen2"])
    line = refused(["causal-lm", str(family), "--speech", str(mixed)], tmp_path / "out", capsys)
    assert "another set" in line
    release = write_model_release(tmp_path / "release")
    assert "none of the EMOVA release" in refused(
        ["emova-hf", str(release), "--speech", str(tmp_path / "other")], tmp_path / "out", capsys
    )


def write_gguf(path: Path, **sizes: int) -> Path:
    """A LLaMA of one layer in so far as its file's head is concerned."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for name, size in sizes.items():
        writer.add_uint32(f"llama.{name.replace('head_count', 'attention.head_count')}", size)
    writer.add_tensor("token_embd.weight", torch.ones(64, 8).numpy())
    writer.add_tensor("blk.0.attn_norm.weight", torch.ones(8).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_measured_before_it_is_loaded(tmp_path, capsys, monkeypatch) -> None:
    path = tmp_path / "model.gguf"
    words = ["causal-lm", str(path), "--speech", "emova-nano"]
    sizes = {"block_count": 1, "embedding_length": 8, "feed_forward_length": 8, "head_count": 2}
    write_gguf(path, **sizes)
    with monkeypatch.context() as little:
        little.setattr(causal_lm, "available_memory", lambda: 1000)
        assert "GiB of memory" in refused(words, tmp_path / "out", capsys)
    for wrong in ({}, {**sizes, "block_count": 80}, {**sizes, "embedding_length": 8192}):
        write_gguf(path, **wrong)
        assert "no GGUF file" in refused(words, tmp_path / "out", capsys)
    path.write_bytes(b"GGUF" + bytes(40))
    assert "no GGUF file" in refused(words, tmp_path / "out", capsys)
