"""The comparison of alignment paradigms on a tiny model: shared phases, resumed results, a table and a figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emova.core.config import find_config, load_config, save_config
from emova.core.errors import InputError
from emova_bench.experiments import paradigms as bench
from emova_train.experiments import paradigms as program
from emova_train.experiments.paradigms import (
    SIZES,
    TABLE7,
    ComparisonConfig,
    Outcome,
    ParadigmConfig,
    PhaseConfig,
    paradigms,
    plan,
    prepare,
)
from emova_train.stages.config import RatesConfig, StageConfig
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "configs" / "paradigms"


@pytest.fixture()
def comparison(folder: Path, tmp_path: Path) -> ComparisonConfig:  # noqa: F811
    save_config(stage(folder, "base", rates=RatesConfig(llm=1e-3, projector=1e-3)), tmp_path / "stage.yaml")
    return ComparisonConfig(
        stage=str(tmp_path / "stage.yaml"), model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer"),
        data=str(folder / "data"), output=str(tmp_path / "out"), steps=2, text=0.5, tune=0.5, pictures=2, utterances=2,
    )  # fmt: skip


def test_the_six_paradigms_are_the_papers() -> None:
    found = paradigms(folder=SHIPPED)
    phases = {name: [(each.image, each.speech) for each in paradigm.phases] for name, paradigm in found.items()}
    assert phases == {
        "joint": [(1, 1)],
        "joint_entangled": [(1, 1)],
        "vl": [(1, 0)],
        "speech": [(0, 1)],
        "vl_speech": [(1, 0), (0.1, 1)],
        "speech_vl": [(0, 1), (1, 0.1)],
    }
    assert [name for name, each in found.items() if each.units != "units"] == ["joint_entangled"]
    for size in SIZES:
        common = load_config(ComparisonConfig, SHIPPED / f"{size}.yaml")
        assert find_config(common.stage).is_file() and find_config(common.model).is_file()
    with pytest.raises(InputError, match="'jiont' is unknown; there are joint, "):
        paradigms(["jiont"], SHIPPED)


def test_the_rows_of_table_7_are_the_papers(comparison: ComparisonConfig) -> None:
    """The tower frozen, half and whole; ten times its rate; captions without a question; tuned alike afterwards."""
    rows = paradigms(folder=SHIPPED / TABLE7)
    common = load_config(ComparisonConfig, SHIPPED / "small.yaml")
    rate = load_config(StageConfig, common.stage, kind="stages").rates.vision
    found = {}
    for name, row in rows.items():
        text, aligned, tuned = (phase.config for phase in plan(common, row, 0))
        found[name] = (aligned.rates.vision_share if aligned.rates.vision else 0.0, aligned.rates.vision / rate,
                       aligned.data.conversations.template)  # fmt: skip
        assert (tuned.rates.vision, tuned.rates.vision_share, tuned.data.conversations.template) == (rate, 0.5, "qa")
    assert found == {
        "full": (1.0, 1.0, "qa"), "half": (0.5, 1.0, "qa"), "frozen": (0.0, 0.0, "qa"), "half_rate": (0.5, 10.0, "qa"),
        "half_plain": (0.5, 1.0, "plain"),
    }  # fmt: skip
    # The chosen row is the paradigm of pictures alone, and is not trained twice.
    alone = plan(common, paradigms(folder=SHIPPED)["vl"], 0)
    assert [phase.folder for phase in plan(common, rows["half"], 0)] == [phase.folder for phase in alone]


def test_what_is_missing_is_made_before(comparison: ComparisonConfig, tmp_path: Path) -> None:
    made = tmp_path / "tokenizer" / "tokenizer.json"
    text = tmp_path / "words.jsonl"
    text.write_text('{"text": "one two three one two three"}\n')
    command = f"train tokenizer --text {text} --out {made.parent} --text-tokens 300"
    prepare(replace(comparison, prepare={str(made): command}))
    assert made.is_file()
    prepare(replace(comparison, prepare={str(made): "no such command"}))  # it is there
    with pytest.raises(InputError, match="prepare: `emova info no-such` did not make .*never"):
        prepare(replace(comparison, prepare={str(tmp_path / "never"): "info no-such"}))


def test_paradigms_that_begin_alike_share_their_phases(comparison: ComparisonConfig) -> None:
    found = paradigms(folder=SHIPPED)
    rows = {name: [phase.folder for phase in plan(comparison, each, 0)] for name, each in found.items()}
    assert rows["vl"][:2] == rows["vl_speech"][:2] and rows["speech"] == rows["speech_vl"][:2]
    assert rows["joint"][0] == rows["joint_entangled"][0] and rows["joint"][1] != rows["joint_entangled"][1]
    assert plan(comparison, found["joint"], 1)[0].folder != rows["joint"][0]
    steps = {name: [phase.config.run.max_steps for phase in plan(comparison, each, 0)] for name, each in found.items()}
    assert steps["joint"] == [1, 4, 1] and steps["speech"] == [1, 2]
    [_, _, second, _] = plan(replace(comparison, steps=100), found["vl_speech"], 0)
    shares = second.config.data.mixture
    assert second.config.run.max_steps == 110
    assert shares == pytest.approx({"caption": 0.1, "asr": 0.6, "tts": 0.4})


def test_a_comparison_from_end_to_end(comparison: ComparisonConfig, monkeypatch, capsys) -> None:
    chosen = {
        "vl": ParadigmConfig("VL", [PhaseConfig(image=1.0)]),
        "speech": ParadigmConfig("Speech", [PhaseConfig(speech=1.0)]),
    }
    said = bench.estimate(comparison, chosen, [0])
    assert said.startswith("4 of 4 phases to train, 6 steps") and "as measured elsewhere" in said
    outcomes = bench.compare(comparison, chosen, [0])
    assert [set(each.scores) for each in outcomes] == [
        {"pictures", "pictures: ball", "tokens: pictures"},
        {"asr", "tokens: asr"},
    ]
    assert all(0 <= score <= 1 for each in outcomes for score in each.scores.values())
    output = Path(comparison.output)
    assert (output / "figure2.png").is_file() and "| VL | 1 |" in (output / "table.md").read_text()
    assert bench.estimate(comparison, chosen, [0]).startswith("0 of 4 phases to train, 0 steps")

    # Called again nothing is trained.
    monkeypatch.setattr(program, "train", None)
    assert bench.compare(comparison, chosen, [0]) == outcomes
    # With its results gone only the measuring is done again, with the same figures.
    for path in (output / "results").iterdir():
        path.unlink()
    assert bench.compare(comparison, chosen, [0]) == outcomes


def test_outcomes_of_another_machine_are_read_and_not_trained(comparison: ComparisonConfig, tmp_path: Path) -> None:
    chosen = {name: paradigm for name, paradigm in paradigms(folder=SHIPPED).items() if name in ("vl", "speech")}
    there = [Outcome("vl", 1, {"pictures": 0.5}), Outcome("speech", 1, {"asr": 0.25})]
    rows = [program.row_of(comparison, chosen[each.paradigm], each) for each in there]
    file = tmp_path / "results.json"
    other = {**rows[0], "paradigm": "joint"}  # not asked for: left alone
    file.write_text(json.dumps({"steps": comparison.steps, "rows": [*rows, other]}))
    assert program.join(comparison, chosen, file) == 2
    assert [program.run_paradigm(comparison, each.paradigm, chosen[each.paradigm], 1) for each in there] == there
    assert bench.estimate(comparison, chosen, [1]).startswith("0 of 4 phases to train")
    assert bench.estimate(comparison, chosen, [0]).startswith("4 of 4 phases to train")

    broken = tmp_path / "broken.json"
    for text, words in (
        ("{", "broken.json: no results"),
        ("[]", "no results"),
        ('{"rows": [3]}', "no results"),
        ('{"rows": [{"paradigm": "vl"}]}', "no results of paradigms"),
        (json.dumps({"rows": [{**rows[0], "phases": "others"}]}), "vl, seed 1, has other phases .others. than here"),
        (json.dumps({"rows": [rows[1], {**rows[0], "asked": "9 pictures"}]}), "vl, seed 1, has other asked"),
    ):
        broken.write_text(text)
        elsewhere = replace(comparison, output=str(tmp_path / "elsewhere"))
        with pytest.raises(InputError, match=words):
            program.join(elsewhere, chosen, broken)
        assert not (tmp_path / "elsewhere").exists()  # all of a file or nothing of it
    with pytest.raises(InputError, match="nowhere"):
        program.join(comparison, chosen, tmp_path / "nowhere.json")


def test_the_table_has_error_bars(tmp_path: Path) -> None:
    outcomes = [
        Outcome("joint", seed, {"pictures": 0.5 + 0.1 * seed, "pictures: charts": 0.25, "asr": 0.8, "tokens: asr": 0.9})
        for seed in (0, 1)
    ]
    outcomes.append(Outcome("vl", 0, {"pictures": 0.4, "pictures: charts": 0.2}))
    titles = {"joint": "Joint", "vl": "VL"}
    lines = bench.markdown(outcomes, titles).splitlines()
    assert lines[0] == "| paradigm | seeds | pictures | pictures: charts | asr | tokens: asr |"
    assert lines[2] == "| Joint | 2 | 55.0 ± 7.1 | 25.0 ± 0.0 | 80.0 ± 0.0 | 90.0 ± 0.0 |"
    assert lines[3] == "| VL | 1 | 40.0 | 20.0 |  |  |"
    bench.draw(outcomes, titles, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_command_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    bench.main(["joint", "--estimate", "--size", "nano", "--steps", "100", "--seeds", "2", "--output", str(tmp_path)])
    said = capsys.readouterr().err
    assert said.startswith("6 of 6 phases to train, 700 steps, 1.4M tokens: 0.2 h at 2000 tokens/s")
    bench.main(["--estimate"])
    assert "phases to train" in capsys.readouterr().err
    for arguments, words in (
        (["nobody"], "is unknown"),
        (["--seeds", "0"], "at least 1"),
        (["--first-seed", "-1"], "at least 1"),
        (["--set", "stepz=1"], "stepz"),
    ):
        with pytest.raises(InputError, match=words):
            bench.main(arguments)
    assert json.loads(json.dumps(plan(ComparisonConfig(), paradigms()["vl"], 0)[0].tokens)) == 100 * 2 * 1024
    with pytest.raises(InputError, match="a phase has an amount"):
        ParadigmConfig("x", [PhaseConfig()])
