"""The comparisons of codecs that train: a model on the units of each, a codebook at each rate; tiny, and resumed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.speech.style import DEFAULT_STYLES, StylePrototypes
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer
from emova_bench.experiments import codecs as bench
from emova_bench.experiments import rates as rates_bench
from emova_bench.tables import inside
from emova_eval.codecs.pairs import Pair
from emova_train.experiments import codecs as program
from emova_train.experiments import rates
from emova_train.experiments.codecs import LearningConfig, Learnt, Point, cells, prepare, run_cell, table
from emova_train.experiments.rates import RateStudy, Result
from emova_train.stages.config import RatesConfig
from emova_train.vq.program import VQTrainConfig
from tests.fixtures_codecs import EARS, VOICES, VQ
from tests.train.fixtures_recipe import TALK
from tests.train.fixtures_vq import (
    TINY,
    whisper_folder,  # noqa: F401  (a fixture)
    write_shard,
)
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)


def write_speech(data: Path) -> None:
    """A shard of each set and split, in which each text is noise of its own length."""
    (data / "speech").mkdir(exist_ok=True)
    questions, answers = ([row[at] for row in TALK] for at in (0, 1))
    for name, split, texts in (("question", "train", questions), ("question", "test", questions),
                               ("answer", "train", answers)):  # fmt: skip
        for shard in range(2):
            with tarfile.open(data / "speech" / f"{name}-{split}-{shard:06d}.tar", "w") as tar:
                for number, text in enumerate(texts):
                    flac = io.BytesIO()
                    rng = np.random.default_rng([number, shard])
                    soundfile.write(flac, 0.1 * rng.standard_normal(300 * len(text)), 16000, format="FLAC")
                    facts = {"text": text, "voice": "v", "set": name, "split": split}
                    for kind, content in (("flac", flac.getvalue()), ("json", json.dumps(facts).encode())):
                        member = tarfile.TarInfo(f"{shard}{number:03d}.{kind}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))


class Recogniser:
    name = "hears one word"

    def transcribe(self, samples: np.ndarray) -> str:
        return "hello"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codecs")
    EARS["s2u"]().eval().save_pretrained(root / "fsq" / "ears")  # type: ignore[operator]
    VOICES["u2s"]().eval().save_pretrained(root / "fsq" / "voice")  # type: ignore[operator]
    StylePrototypes({style.key: torch.ones(8) for style in DEFAULT_STYLES}).save(root / "fsq" / "voice")
    torch.manual_seed(0)
    WhisperVQTokenizer(replace(VQ, encoder=replace(VQ.encoder, codes=4096))).eval().save_pretrained(root / "vq")
    return root


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> LearningConfig:  # noqa: F811
    made = stage(folder, "base", rates=RatesConfig(llm=1e-3))
    made = replace(made, data=replace(made.data, mixture={"asr": 1.0, "tts": 1.0}))
    save_config(made, tmp_path / "stage.yaml")
    write_speech(folder / "data")
    return LearningConfig(
        str(tmp_path / "stage.yaml"), str(folder / "model.yaml"), str(folder / "tokenizer"), str(folder / "data"),
        str(tmp_path / "out"), tokens=1200, points=2, seeds=1, shards=1, utterances=2, sentences=2, overrides=(),
    )  # fmt: skip


def learnt(exports: Path) -> list[Learnt]:
    fsq = bench.learnt(Pair("fsq", str(exports / "fsq/ears"), str(exports / "fsq/voice")), Recogniser())
    return [fsq, bench.learnt(Pair("vq", str(exports / "vq")), Recogniser())]


def test_a_model_learns_each_codec_and_what_is_finished_is_read(
    config: LearningConfig, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = learnt(exports)
    assert codecs[0].heard is not None and codecs[1].heard is None
    said = bench.estimate(config, list(cells(config, codecs)))
    assert said.startswith("2 of 2 runs to train, 0.00M tokens and 4 points")
    found = bench.run(config, codecs, lambda line: None)
    (fsq,), (vq,) = found["fsq"], found["vq"]
    assert [point.tokens for point in fsq] == [point.tokens for point in vq] == [600, 1200]
    assert all(point.hear > 0 and 0 <= point.next_tokens <= 1 for point in (*fsq, *vq))
    assert all(point.speak > 0 for point in fsq) and all(np.isnan(point.speak) for point in vq)
    output = Path(config.output)
    assert (output / "table.md").read_text() == table(found) and (output / "curves.png").stat().st_size > 1000
    # Each has units of its own, of one shard of each split, and the same texts; no checkpoint is left.
    data = Path(config.data)
    rows = {each.name: (data / each.units / "question.jsonl").read_text().splitlines() for each in codecs}
    assert len(rows["fsq"]) == len(rows["vq"]) == 2 * len(TALK)
    seconds = [len(json.loads(line)["units"]) for name in ("fsq", "vq") for line in rows[name][:1]]
    assert seconds[0] == pytest.approx(2 * seconds[1], abs=1)
    assert not [path for cell in cells(config, codecs) for path in cell.folder.iterdir() if path.is_dir()]

    monkeypatch.setattr(program, "train", None)
    again = bench.run(config, codecs, lambda line: None)
    assert table(again) == table(found)
    assert bench.estimate(config, list(cells(config, codecs))).startswith("0 of 2 runs to train")


def test_an_interrupted_run_ends_as_one_that_was_not(
    config: LearningConfig, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = learnt(exports)[0]
    prepare(config, [codec])
    (cell,) = cells(config, [codec])
    whole = run_cell(config, cell)

    other = replace(config, output=str(tmp_path / "other"))
    (cell,) = cells(other, [codec])
    measure, asked = program.measure, []

    def killed(*given: object) -> Mapping[str, float]:
        asked.append(given)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(program, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run_cell(other, cell)
    assert not cell.done
    assert run_cell(other, cell) == whole
    assert len(asked) == 3, "the first point was not measured again"


def test_another_codec_size_or_seed_is_another_run(config: LearningConfig, exports: Path, tmp_path: Path) -> None:
    fsq, vq = learnt(exports)
    known = [cell.folder for cell in cells(replace(config, seeds=2), [fsq, vq])]
    others = [cell.folder for cell in cells(replace(config, tokens=2400), [fsq, vq])]
    assert len({*known, *others}) == 6 and fsq.units != vq.units
    assert [cell.seed for cell in cells(replace(config, seeds=2), [fsq, vq])] == [0, 0, 1, 1]
    EARS["kmeans"]().eval().save_pretrained(tmp_path / "few")  # type: ignore[operator]
    with pytest.raises(InputError, match="^few: 32 units, the vocabulary of .* has 4096; give --set tokenizer="):
        prepare(config, [Learnt("few", tmp_path / "few")])
    with pytest.raises(InputError, match="at least 1"):
        replace(config, seeds=0)


def test_the_table_has_the_spread_over_seeds() -> None:
    runs = [[Point(100, 1.0, float("nan"), 0.25)], [Point(100, 0.8, float("nan"), 0.35)]]
    lines = table({"a": runs, "b": [[Point(100, 0.5, 0.25, 0.5)]]}).splitlines()
    assert lines[2] == "| a | 100 | 2 | 90.0 ± 14.1 | – | 30.0 ± 7.1 |"
    assert lines[3] == "| b | 100 | 1 | 50.0 | 25.0 | 50.0 |"


def test_the_estimate_is_printed_and_nothing_else_happens(
    exports: Path, config: LearningConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(bench, "make_recogniser", lambda suite: Recogniser())
    pairs = [f"fsq={exports / 'fsq/ears'},{exports / 'fsq/voice'}", f"vq={exports / 'vq'}"]
    options = ["--dry-run", "--output", str(tmp_path / "none"), "--tokens", "300000", "--seeds", "3"]
    bench.main([*pairs, *options])
    said = capsys.readouterr().out
    assert said.startswith("6 of 6 runs to train, 1.81M tokens and 18 points: about 39 minutes of one core")
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="x.md: no such file"):
        bench.main([*pairs, *options, "--refresh", "x.md"])


# --- rates ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def study(whisper_folder: Path, tmp_path: Path) -> RateStudy:  # noqa: F811
    for split in ("train", "test"):
        write_shard(tmp_path / f"s-{split}-000000.tar", 3)
    base = VQTrainConfig(model=TINY, whisper=str(whisper_folder), cache=str(tmp_path / "cache"), batch_seconds=4,
                         validation=[str(tmp_path / "s-test-*.tar")], perturbed=0.0)  # fmt: skip
    save_config(base, tmp_path / "base.yaml")
    given = (f"train=[{{pattern: {tmp_path}/s-train-*.tar}}]", "validation_clips=1", "run.precision=fp32")
    return RateStudy(str(tmp_path / "base.yaml"), (4, 8), steps=2, overrides=given, output=str(tmp_path / "rates"))


def test_a_codebook_at_each_rate(study: RateStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    results = rates.run(study, lambda line: None)
    assert [(each.rate, each.codes) for each in results] == [(12.5, 24), (6.25, 96)]
    assert all(each.error("word_error") > 0 and each.error("phone_error") > 0 for each in results)
    text = (Path(study.output) / "table.md").read_text()
    assert text == rates.table(results) and "| 6.25 | 96 | 41 | 1 |" in text
    monkeypatch.setattr(rates, "train", None)
    assert rates.run(study, lambda line: None) == results
    assert [cell.folder for cell in rates.cells(replace(study, steps=3))] != [
        each.folder for each in rates.cells(study)
    ]


def test_the_rates_are_the_papers(tmp_path: Path, capsys) -> None:
    shipped = {cell.pooling: cell.config for cell in rates.cells(RateStudy())}
    base = load_config(VQTrainConfig, "nano", kind="vq")
    assert [shipped[each].model.encoder.codes for each in (1, 2, 4, 8)] == [1024, 1024, 4096, 16384]
    assert shipped[4].model == base.model and shipped[4].restart_below == base.restart_below
    for pooling, config in shipped.items():  # a code begins again when it is used as rarely, for its share
        share = 50 / pooling / config.model.encoder.codes
        assert config.restart_below / share == pytest.approx(base.restart_below / (12.5 / 4096))
    rates_bench.main(["--dry-run"])
    assert capsys.readouterr().out == "4 of 4 trainings left, 2000 steps, about 43 minutes of one core\n"
    for wrong in ({"poolings": (3,)}, {"steps": 0}):
        with pytest.raises(InputError, match="^rates: "):
            RateStudy(**wrong)  # type: ignore[arg-type]
    two = [Result(12.5, 4096, seed, 9.0, {"word_error/a": 0.1 + seed / 10, "word_error/b": 0.3}) for seed in (0, 1)]
    assert "| 12.5 | 4,096 | 150 | 2 | 22.5 ± 3.5 | – | – | 9 |" in rates.table(two)


def test_the_documents_have_places_for_the_tables(study: RateStudy, tmp_path: Path, capsys) -> None:
    page = Path(__file__).parents[2] / "docs" / "codecs.md"
    for section in (bench.SECTION, rates_bench.SECTION):
        assert inside(page.read_text(encoding="utf-8"), section)
    document = tmp_path / "codecs.md"
    document.write_text("a\n<!-- rates: begin -->\n<!-- rates: end -->\nb\n")
    sets = [each for name in study.overrides for each in ("--set", name)]
    given = ["--base", study.base, "--poolings", "4", "--steps", "1", "--output", study.output, *sets]
    rates_bench.main([*given, "--refresh", str(document)])
    assert document.read_text().startswith("a\n<!-- rates: begin -->\n| units/s | codes |")
    with pytest.raises(InputError, match="the markers <!-- rates: begin -->"):
        rates_bench.main([*given, "--refresh", str(tmp_path / "base.yaml")])
