"""The bad input that training and data recipes meet: one clear line or a counted skip, and nothing lost.

Here through the command line; what happens inside is tested beside each part: shards cut short, lying pictures, missing
turns, unknown roles and missing pictures in ``train/test_shards.py`` and ``data_recipes/``, audio of another rate in
``data_recipes/test_tokenise.py``.
"""

from __future__ import annotations

import json
import resource
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from emova.cli.main import main
from emova.core.config import config_dict
from emova.core.errors import InputError
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova_data.records.records import Draft
from emova_data.sources.convert import ConvertConfig, convert
from emova_train.data.sample_reader import SKIPPED
from emova_train.stages.program import export
from emova_train.stages.start import build
from tests.train.fixtures_codecs_training import KINDS, rewritten, write_parts, write_speech, write_training
from tests.train.fixtures_sets import pictured, write_sets
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)
from tests.train.test_tokenize_shards import flac, write_shard


def refused(arguments: list[str], capsys, *words: str) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("emova: ") and "Traceback" not in printed.err
    for word in words:
        assert word in last


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:  # noqa: F811
    """A stage on sets, as YAML."""
    sets = write_sets(folder / "sets")
    values: dict[str, Any] = config_dict(stage(folder, "bad"))
    values["rates"]["llm"] = 1e-3
    values["data"] |= {"sets": {"text": 1.0}, "pack_tokens": 300}
    values["data"]["shards"] |= {"root": str(sets), "window": 2}
    values["samples"] |= {"answers": 0}
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.sets.txet=1.0", ("set 'txet' is not in", "did you mean text?")),
        ("data.sets.text=-1", ("data.sets: text has -1 passes",)),
        ("data.mixture.asr=1", ("mixture", "not both")),
        ("data.held_out=[speach]", ("set 'speach' is not in", "speech?")),
        ("run.max_step=3", ("max_step",)),
        ("data.shards.max_skip_rat=3", ("max_skip_rat",)),
        ("data.shards.budgets.video=3", ("budgets.video",)),
        ("data.shards.window=0", ("window=0", "at least 1")),
        ("data.shards.records.template=chat", ("template=chat", "qa, plain")),
        ("data.shards.records.speak_share=2", ("speak_share=2", "between 0 and 1")),
        ("run.max_steps=many", ("max_steps",)),
        ("run.report_to=[tensorbord]", ("tensorbord", "tensorboard, wandb, trackio")),
        ("samples.voice=no/such/voice", ("no/such/voice", "no such checkpoint")),
    ],
)
def test_stage_configs(config: Path, change: str, words: tuple[str, ...], capsys) -> None:
    refused(["train", "stage2", str(config), change], capsys, *words)


def test_unknown_tasks_of_a_recipe(config: Path, capsys) -> None:
    values = yaml.safe_load(config.read_text())
    values["data"] |= {"sets": {}, "mixture": {"picture_txt": 1.0}}
    other = config.with_name("task.yaml")
    other.write_text(yaml.safe_dump(values))
    refused(["train", "stage2", str(other)], capsys, "picture_txt is no task", "picture_text")


def test_damage_is_counted_through_the_command(config: Path, folder: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    sets = write_sets(tmp_path / "sets")
    for shard in (sets / "text").glob("*.jsonl"):
        shard.write_text(shard.read_text().replace('"role": "user"', '"role": "robot"', 2))
    changes = [f"data.shards.root={sets}", f"run.output_dir={tmp_path / 'run'}", "data.shards.min_tried=10"]
    refused(["train", "stage2", str(config), *changes], capsys, "had to be left out", "an unknown role, robot", SKIPPED)
    rows = [json.loads(line) for line in (tmp_path / "run" / SKIPPED).read_text().splitlines()]
    assert {row["reason"] for row in rows} == {"an unknown role, robot"} and all(row["id"][0] == "t" for row in rows)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [3000, 9000, 12000])
def test_a_disk_that_fills_while_shards_are_written(tmp_path: Path, size: int) -> None:
    drafts = [Draft(str(number), partial(pictured, number)) for number in range(60)]
    settings = ConvertConfig(per_shard=10)
    with full_disk(size), pytest.raises(InputError, match="check the space on the disk"):
        convert(drafts, tmp_path / "broken", "p", config=settings)
    assert not list((tmp_path / "broken").glob("*.partial"))
    convert(drafts, tmp_path / "broken", "p", config=settings)
    convert(drafts, tmp_path / "whole", "p", config=settings)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "broken" / path.name).read_bytes() == path.read_bytes()


def test_a_disk_that_fills_while_a_stage_is_exported(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    model, processor = build(stage(folder, "export"))
    export(model, processor, tmp_path / "export")
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    with full_disk(3000), pytest.raises(InputError, match="the trained model could not be written .* make room"):
        export(model, processor, tmp_path / "export")
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_a_disk_that_fills_while_units_are_written(tmp_path: Path, capsys) -> None:
    KMeansTokenizer(KMeansConfig(dimensions=4, clusters=8)).save_pretrained(tmp_path / "tokenizer")
    clips = {f"clip{number}": flac(1.0, number) for number in range(20)}
    write_shard(tmp_path / "nano" / "speech" / "question-train-000000.tar", clips)
    command = ["train", "units", "--tokenizer", str(tmp_path / "tokenizer"), "--data", str(tmp_path / "nano")]
    with full_disk(1000):
        refused([*command, "--set", "question", "--jobs", "1"], capsys, "make room and run the same command again")
    assert not (tmp_path / "nano" / "units" / "question.jsonl").exists()
    assert main([*command, "--set", "question", "--jobs", "1"]) == 0
    assert len((tmp_path / "nano" / "units" / "question.jsonl").read_text().splitlines()) == 20


# --- the codecs: EMOVA's and GLM-4-Voice's ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: -shard.stat().st_size // 3])


AGAIN = ("cannot be read", "make the shard again")
SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no shard": (Path.unlink, ("speech-*.tar: no such shards",)),
    "cut": (cut, ("speech-0.tar: the shard is damaged", "make it again")),
    "nothing in it": (lambda shard: tarfile.open(shard, "w").close(), ("speech-*.tar: no recording ",)),
    "broken sound": (lambda shard: rewritten(shard, ".flac", lambda content: content[:40]), AGAIN),
    "broken texts": (lambda shard: rewritten(shard, ".json", lambda content: content[:9]), AGAIN),
}


@pytest.mark.parametrize("how", sorted(SPOILT))
@pytest.mark.parametrize("kind", KINDS)
def test_speech_that_no_codec_can_learn_from(kind: str, how: str, parts: Path, tmp_path: Path, capsys) -> None:
    write_speech(tmp_path / "speech-0.tar")
    spoil, words = SPOILT[how]
    spoil(tmp_path / "speech-0.tar")
    refused(["train", kind, str(write_training(kind, parts, tmp_path))], capsys, *words)
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("s2u", "streem.enabled=true", ("streem", "did you mean stream?")),
        ("vq", "comitment=1", ("comitment", "did you mean commitment?")),
        ("u2s", "losses.adversarial_begin=1", ("losses.adversarial_begin",)),
        ("flow", "model.guidence=1", ("model.guidence", "did you mean model.guidance?")),
        ("vq", "run.max_steps=many", ("run.max_steps",)),
        ("flow", "run.max_steps=many", ("run.max_steps",)),
        ("vq", "model.encoder.block=15", ("block=15", "a multiple of pooling=4")),
        ("vq", "model.encoder.width=32", ("whisper: its encoder has", "give model.encoder the same")),
        ("flow", "model.units.codes=4096", ("data.tokenizer: makes 12.5 of 24 units", "model.units.codes")),
        ("flow", "model.unit_rate=25", ("data.tokenizer: makes 12.5 of 24 units", "model.unit_rate")),
        ("flow", "model.chunks=[1]", ("chunks=[1]", "give longer ones")),
        ("flow", "data.tokenizer=no/such", ("no/such",)),
        ("flow", "initial=no/such", ("no/such",)),
        ("vq", "start_from=no/such", ("no/such",)),
    ],
)
def test_configs_of_the_codecs(
    kind: str, change: str, words: tuple[str, ...], parts: Path, tmp_path: Path, capsys
) -> None:
    write_speech(tmp_path / "speech-0.tar")
    refused(["train", kind, str(write_training(kind, parts, tmp_path)), change], capsys, *words)
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.parametrize(("kind", "part"), [("u2s", "s2u"), ("flow", "vq")])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_tokenizer_of_a_voices_training(
    kind: str, part: str, name: str, parts: Path, tmp_path: Path, capsys
) -> None:
    write_speech(tmp_path / "speech-0.tar")
    ears = shutil.copytree(parts / part, tmp_path / "ears")
    cut(ears / name)
    given = ["train", kind, str(write_training(kind, parts, tmp_path)), f"data.tokenizer={ears}"]
    refused(given, capsys, str(ears), "damaged; copy the whole folder again")
