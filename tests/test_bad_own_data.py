"""Bad input on the way from own data to a model: one line that names the thing, reason and fix, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
import soundfile
import yaml
from pyarrow import parquet

from emova.cli.main import main
from emova.core.config import load_config
from emova.core.errors import InputError
from emova_train.flow.config import FlowRecipe
from emova_train.s2u.program import S2UTrainConfig
from emova_train.stages.config import StageConfig
from emova_train.u2s.config import U2SRecipe
from emova_train.vq.program import VQTrainConfig

EXAMPLES = Path(__file__).parents[1] / "emova" / "checkpoints" / "examples"
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]


def refused(arguments: list[str], capsys, *words: str) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if line.startswith("emova: ")]
    assert len(lines) == 1 and "Traceback" not in printed and "internal error" not in printed, printed
    for word in words:
        assert word in lines[0], lines[0]


def left(folder: Path) -> list[str]:
    """Shards and what was begun of them."""
    return [path.name for path in folder.rglob("*") if path.suffix in (".tar", ".jsonl", ".tmp", ".part")
            and path.name != "skipped.jsonl"]  # fmt: skip


def broken_json(folder: Path) -> None:
    (folder / "data.json").write_text(json.dumps([{"id": 1, "conversations": TURNS}])[:-9])


def damaged_parquet(folder: Path) -> None:
    parquet.write_table(pyarrow.table({"id": [1]}), folder / "rows.parquet")
    path = folder / "rows.parquet"
    path.write_bytes(path.read_bytes()[:40])


def no_conversations(folder: Path) -> None:
    parquet.write_table(pyarrow.table({"id": [1, 2], "talk": ["a", "b"]}), folder / "rows.parquet")


def no_messages(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')


def broken_lines(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"messages": [\n{"messages"\n')


def broken_sound(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.wav").write_bytes((EXAMPLES / "question.wav").read_bytes()[:30])
        (folder / f"{number}.txt").write_text("hello")


def no_transcripts(folder: Path) -> None:
    (folder / "wavs").mkdir()
    (folder / "metadata.csv").write_text("a\nb\n")  # LJSpeech's list without its columns
    for name in "ab":
        (folder / "wavs" / f"{name}.wav").write_bytes((EXAMPLES / "question.wav").read_bytes())


def silence(folder: Path) -> None:
    soundfile.write(folder / "a.wav", [0.0] * 48000, 24000)


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("llava", broken_json, ("data.json, line 1", "repair it")),
        ("llava", damaged_parquet, ("rows.parquet",)),
        ("llava", no_conversations, ("no conversation",)),
        ("messages", no_messages, ("no messages",)),
        ("messages", broken_lines, ("a row that cannot be read",)),
        ("speech", broken_sound, ("audio that cannot be decoded",)),
        ("speech", no_transcripts, ("a line without a transcript", "skipped.jsonl")),
        ("recordings", broken_sound, ("audio that cannot be decoded",)),
        ("recordings", silence, ("no record could be converted",)),
        ("llava", lambda folder: None, ("the folder is empty", "give the one that holds the data")),
        ("messages", lambda folder: None, ("the folder is empty", "give the one that holds the data")),
        ("speech", lambda folder: None, ("the folder is empty", "give the one that holds the data")),
        ("recordings", lambda folder: None, ("the folder is empty", "give the one that holds the data")),
    ],
)
def test_a_folder_that_cannot_be_converted(kind: str, make, words: tuple[str, ...], tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    make(tmp_path / "mine")
    told = ["data", "convert", str(tmp_path / "mine"), "--format", kind, "--root", str(tmp_path / "data")]
    refused(told, capsys, *words)
    assert not left(tmp_path / "data")


def test_a_source_of_a_later_version(tmp_path: Path, capsys) -> None:
    entry = {"name": "mine", "converter": "llava", "folder": "x", "select": {"beauty": 3}}
    for changes, words in (
        ({}, ("select.beauty is unknown; keys are",)),
        ({"select": {}, "tint": 1}, ("key 'tint' is unknown; keys are",)),
        ({"select": {}, "converter": "holograms"}, ("converter 'holograms' is unknown; choose",)),
    ):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**entry, **changes}))
        refused(["data", "convert", str(tmp_path / "mine.yaml"), "--root", str(tmp_path / "data")], capsys, *words)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("kind", "cls", "base", "key"),
    [
        ("stages", StageConfig, "own", "run.tempo"),
        ("stages", StageConfig, "sets/paper/stage3", "data.shards.records.colour"),
        ("s2u", S2UTrainConfig, "paper", "stream.depth"),
        ("u2s", U2SRecipe, "paper-pretrain", "model.vits.aura"),
        ("vq", VQTrainConfig, "paper", "model.encoder.aura"),
        ("flow", FlowRecipe, "paper-pretrain", "model.estimator.depth"),
    ],
)
def test_a_config_of_a_later_version(kind: str, cls: type, base: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"base": f"stages/{base}" if base == "own" else base if kind == "stages" else f"{kind}/{base}"})
    )
    load_config(cls, path, kind=kind)
    with pytest.raises(InputError) as refusal:
        load_config(cls, path, [f"{key}=1"], kind=kind)
    said = str(refusal.value)
    assert f"{key}: no such key; there are" in said and "of a later version, update emova" in said and "\n" not in said


def test_a_stage_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "later.yaml").write_text("base: stages/own\nrun: {output_dir: runs/mine, tempo: 3}\n")
    for launch in ([], ["--launch", "torchrun", "--only-write"]):
        refused(["train", *launch, "stage3", "later.yaml"], capsys, "run.tempo", "of a later version")
        refused(["train", *launch, "stage3", "own", "data.sets.none=1.0"], capsys, "set 'none' is not in data/sets")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later.yaml"]


@pytest.fixture
def no_hub(monkeypatch) -> Iterator[None]:
    """A hub that refuses every connection, at once."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    client = vars(_http).get("httpx2") or vars(_http)["httpx"]  # by its version

    def refuse(request: object) -> object:
        raise client.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    huggingface_hub.set_client_factory(lambda: client.Client(transport=client.MockTransport(refuse)))
    yield
    huggingface_hub.set_client_factory(_http.default_client_factory)


def test_a_hub_that_cannot_be_reached(no_hub, tmp_path: Path, monkeypatch, capsys, tiny_tokenizer) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    refused(
        ["data", "fetch", "lcs-558k"], capsys, "liuhaotian/LLaVA-Pretrain could not be fetched", "check the network"
    )
    refused(
        ["train", "tokenizer", "--extend", "no-such/llama", "--out", "tokenizer"], capsys, "no-such/llama",
        "give a folder or a name on the hub",
    )  # fmt: skip
    assert not (tmp_path / "tokenizer").exists()
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "model.yaml").write_text("base: model/nano\ntext: {pretrained: no-such/llama}\n")
    (tmp_path / "tower.yaml").write_text("base: model/nano\nvision_pretrained: no-such/tower\n")
    stage = ["train", "stage1", "sets/paper/stage1", "run.parallel.strategy=ddp", "run.output_dir=runs/mine"]
    given = ["init.tokenizer=tokenizer", "run.precision=fp32", "allow_random=true", "init.internvit=''"]
    given += ["run.global_batch_size=0", "run.epochs=0"]
    refused(
        [*stage, *given, "init.model=model.yaml"], capsys, "no-such/llama: no such language model here", "or give a"
    )
    refused([*stage, *given, "init.model=tower.yaml"], capsys, "no-such/tower: no such folder, and not on the hub")
    refused([*stage, *given[:3], "init.model=model/nano", "init.internvit=no-such/tower", *given[4:]], capsys,
            "no-such/tower: no such folder, and not on the hub")  # fmt: skip
    assert not (tmp_path / "runs" / "mine" / "export").exists()
