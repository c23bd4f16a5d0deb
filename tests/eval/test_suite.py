"""Runs by name, their report, an interrupt, the offline suite, and what other toolkits see."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emova.core.errors import InputError
from emova_eval import cli
from emova_eval.adapters.messages import cut_at, to_content
from emova_eval.report.published import EMOVA_VISION, GLM_CHAT, GLM_QUESTIONS, TABLES
from emova_eval.report.refresh import END
from emova_eval.report.tables import (
    failures_of,
    figure_cells,
    figures_table,
    group_tables,
    markdown,
    published_lines,
    tables_of,
    worst_of,
)
from emova_eval.suite.runner import Figure, missing_figure
from emova_eval.suite.samples import Example, Output, Record
from emova_eval.suite.scoring import METRICS
from emova_eval.suite.suite import TASKS, Codebook, LeakageTask, SuiteConfig, UnitsTask, build_task, run_suite, tasks_in
from emova_eval.suite.tasks import MetricTask
from tests.eval.fixtures_models import Unasked
from tests.fixtures_codecs import make_vq_and_flow

EMOVA = Codebook(4096, 25.0)


class Colours(Unasked):
    """Knows the colour of a picture; stops after ``patience`` questions."""

    name = "colours"

    def __init__(self, patience: int = 1000) -> None:
        self.patience = patience

    def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        colour = Path(images[0]).stem
        if "yes or no" in text:
            return Output("Yes" if f"it {colour}" in text else "No")
        return Output(f"<b>{colour}</b>" if "<" in text else colour, audio=np.zeros(800, np.float32), sample_rate=16000)

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        return (1, 2, 3, 4)


def picture_tasks(folder: Path) -> list[MetricTask]:
    """Plain colours under metrics that need no language model; rotations are numbered as MMBench numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = ("red", "green", "blue", "yellow")
    for colour in colours:
        Image.new("RGB", (64, 64), colour).save(folder / f"{colour}.png")
    ask = {colour: Example(colour, "What colour is it?", images=(str(folder / f"{colour}.png"),), answers=(colour,))
           for colour in colours}  # fmt: skip
    turned = [
        dataclasses.replace(ask[c], id=str(turn * 1_000_000 + i), choices=(*colours[turn:], *colours[:turn]))
        for i, c in enumerate(colours)
        for turn in range(4)
    ]
    asked = [
        dataclasses.replace(
            ask[c], id=f"{c}/{said}", text=f"Is it {said}? Please answer yes or no.", group="color",
            answers=("Yes" if said == c else "No",), facts={"picture": c}, metric="mme",
        )
        for c, other in zip(colours, reversed(colours), strict=True)
        for said in (c, other)
    ]  # fmt: skip
    plain = [MetricTask(f"t-{name}", list(ask.values()), METRICS[name]) for name in ("vqa", "anls", "ocrbench")]
    return [*plain, MetricTask("t-circular", turned, METRICS["circular"]), MetricTask("t-mme", asked, METRICS["mme"])]


def test_a_perfect_model_gets_full_marks_under_every_rule(tmp_path: Path) -> None:
    config = SuiteConfig(output_dir=str(tmp_path / "run"))
    figures = run_suite(picture_tasks(tmp_path / "fixtures"), config, "colours", Colours())
    assert {figure.task: figure.value for figure in figures} == {
        "t-vqa": 100, "t-anls": 100, "t-ocrbench": 1000, "t-circular": 100, "t-mme": 200,
    }  # fmt: skip
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<audio controls" in page and "data:image/png;base64," in page and "http" not in page.split("<h2>Run")[0]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["run"]["model"] == "emova-nano"


def test_an_interrupt_leaves_a_report_and_the_run_goes_on(tmp_path: Path) -> None:
    config = SuiteConfig(output_dir=str(tmp_path / "run"))
    tasks = picture_tasks(tmp_path / "fixtures")[:2]
    with pytest.raises(KeyboardInterrupt):
        run_suite(tasks, config, "t", Colours(patience=5))
    assert "interrupted" in (tmp_path / "run" / "report.md").read_text()
    second = Colours()
    assert [figure.value for figure in run_suite(tasks, config, "t", second)] == [100, 100]
    assert second.patience == 1000 - 3
    with pytest.raises(InputError, match="another model"):
        run_suite(tasks, SuiteConfig(model="other", output_dir=config.output_dir), "t", Colours())


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    item = Example("<script>", "<script>alert(1)</script>", images=(str(tmp_path / "x.png"),), answers=("|",))
    figures = run_suite(
        [MetricTask("t|<i>", [item], METRICS["exact"]), missing_figure("gone", "no data")],
        SuiteConfig(output_dir=str(tmp_path / "run")),
        "<title>",
        Colours(),
    )
    assert figures[0].value == 0 and figures[1].value is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>" not in page and "<b>" not in page and "not measured" in page
    assert "t\\|" in (tmp_path / "run" / "report.md").read_text()


def figure(task: str, value: float | None = 50.0) -> Figure:
    return Figure(task, value, 40.0, 60.0, "%", True, 10, 1, "judge", groups={"a": 1.0, "b": 2.0})


def test_figures_stand_beside_the_papers(tmp_path: Path) -> None:
    [line] = published_lines(EMOVA_VISION, {"mme": figure("mme"), "other": figure("other")})
    assert line[:3] == ["MME", "50 (10 items)", "2205"] and line[3] == "–"
    [line] = published_lines(GLM_QUESTIONS, {"triviaqa-s2s": figure("triviaqa-s2s")})
    assert line[0] == "TriviaQA S→S"
    assert len(tables_of([figure("mme")])) == 2 and "EMOVA, Table 3" in markdown("t", [figure("mme")], {})
    assert group_tables([figure("mme")]) == [("mme by group", ("group", "figure"), [["a", "1"], ["b", "2"]])]
    assert figure_cells(missing_figure("x", "why"))[-1] == "why"
    for table in TABLES:
        assert all(len(cells) == len(table.columns) for _, cells in table.rows.values())
        names = {name.removesuffix("-s2s").removesuffix("-s2t") for name in TASKS}
        assert {row.partition("/")[0] for row in table.rows} <= names and table.percent <= set(table.rows)


def test_further_figures_have_rows_of_their_own_on_the_papers_scale() -> None:
    spoken = dataclasses.replace(figure("general-qa-s2s", 3.0), extra={"speech": 0.125, "utmos": 3.5, "dnsmos": 3.0})
    lines = published_lines(GLM_CHAT, {"general-qa-s2s": spoken, "knowledge-s2s": figure("knowledge-s2s", 2.0)})
    assert [line[:2] for line in lines] == [
        ["General QA, of 10 S→S", "3 (10 items)"], ["UTMOS S→S", "3.5 (10 items)"],
        ["ASR-WER S→S", "12.5 (10 items)"], ["Knowledge, of 10 S→S", "2 (10 items)"],
    ]  # fmt: skip
    assert lines[2][-1] == "5.74"
    [written] = published_lines(GLM_CHAT, {"general-qa-s2t": figure("general-qa-s2t", 3.0)})
    assert written[0] == "General QA, of 10 S→T"


def test_the_worst_come_first_and_failures_before_all() -> None:
    rows = [Record("t", "a", "", [], "", 1, 1), Record("t", "b", "", [], "", 0, 1)]
    failed = Record("t", "c", "", [], "", 1, 1, failure="x")
    assert [r.id for r in worst_of([*rows, failed], True)] == ["c", "b", "a"]
    assert [r.id for r in worst_of(rows, False)] == ["a", "b"]


def test_what_no_judge_here_gives_is_a_line_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    one = dataclasses.replace(figure("tts"), extra={"dnsmos": 3.25}, extra_intervals={"dnsmos": (3.0, 3.5)})
    one = dataclasses.replace(one, absent={"utmos": "UTMOS: its weights cannot be fetched"})
    text = figures_table([one])
    assert "| tts | dnsmos | 3.25 | 3 to 3.5 |  |" in text
    assert "| tts | utmos | not available |  | UTMOS: its weights cannot be fetched |" in text
    cli._print([one])
    assert "not available" in capsys.readouterr().out


def test_a_judge_that_failed_on_a_part_of_an_answer_is_listed() -> None:
    rows = [Record("t", id, "", [], "", 1, 1, notes={"judge_failures": ["dnsmos: no verdict"]}) for id in "ab"]
    [(_, _, lines)] = failures_of(rows)
    assert lines == [["t", "dnsmos: no verdict", "2", "a, b"]] and failures_of([]) == []


def test_units_are_counted(tmp_path: Path) -> None:
    task = UnitsTask("units", [Example("a", audio="a.wav")], EMOVA)
    [found] = run_suite([task], SuiteConfig(output_dir=str(tmp_path / "a")), "t", Colours())
    assert found.value == 50  # four units, equally often: two bits, 25 times a second


def test_intervals_of_bitrate_and_codebook_use_hold_their_figures(tmp_path: Path) -> None:
    class Wide(Colours):
        def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
            rng = np.random.default_rng(int(Path(str(audio)).stem))
            return tuple(int(unit) for unit in rng.integers(0, 4096, 60))

    # Few draws from a large codebook: drawn anew, recordings repeat and use fewer units than the whole set does.
    task = UnitsTask("units", [Example(str(i), audio=f"{i}.wav") for i in range(12)], EMOVA)
    [found] = run_suite([task], SuiteConfig(output_dir=str(tmp_path)), "t", Wide())
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    assert found.extra["bitrate"] == 300 and 14 < found.extra["used"] < 18
    for name, figure in found.extra.items():
        low, high = found.extra_intervals[name]
        assert low <= figure <= high, name
    low, high = found.extra_intervals["used"]
    line = f"| units | used | {found.extra['used']:.4g} | {low:.4g} to {high:.4g} |"
    assert line in (tmp_path / "report.md").read_text()


def test_a_model_without_units_has_no_bitrate_and_no_leakage_rather_than_the_best(tmp_path: Path) -> None:
    class Mute(Colours):
        def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
            return ()

    items = [Example(str(i), f"s{i % 2}", f"{i}.wav", facts={"voice": "xy"[i // 2]}) for i in range(4)]
    tasks = [UnitsTask("units", items, EMOVA), LeakageTask("leakage-voice", items, "voice", EMOVA)]
    figures = run_suite(tasks, SuiteConfig(output_dir=str(tmp_path)), "t", Mute())
    assert all(figure.value is None and "too few" in figure.missing and figure.count == 4 for figure in figures)


def test_leakage_needs_labels_and_counts_recordings_that_fail(tmp_path: Path) -> None:
    class Leaky(Colours):
        def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
            if "gone" in str(audio):
                raise InputError("no such file")
            return (1, 1, 2) if "/x" in str(audio) else (3, 3, 4)

    names = [f"{voice}{i}" for i in range(6) for voice in "xy"] + ["gone"]
    lines = [
        {"id": n, "audio": f"{n}.wav", "text": f"s{n[-1]}", "answer": "-", "group": f"{n[0]}/happy"} for n in names
    ]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = SuiteConfig(data=str(tmp_path), output_dir=str(tmp_path / "run"))
    [found] = run_suite([build_task("leakage-voice", config)], config, "t", Leaky())
    assert found.value is not None and found.value >= 50 and found.failures == 1 and found.low is None
    with pytest.raises(InputError, match="two labels"):
        build_task("leakage-emotion", config)


def test_units_are_counted_by_the_models_own_codebook(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A codec of 12.5 of 8,192 kinds of units a second, in place of EMOVA's 25 of 4,096: what units cost, and leak."""
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    shutil.rmtree(model / "speech_tokenizer")
    make_vq_and_flow(8192)[0].save_pretrained(model / "speech_tokenizer")

    class High(Colours):
        def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
            return (8191, 5000) if "/x" in str(audio) else (4096, 7000)

    lines = [{"id": f"{v}{i}", "audio": f"{v}{i}.wav", "text": f"s{i}", "answer": "-", "group": f"{v}/{v}"}
             for i in range(6) for v in "xy"]  # fmt: skip
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, value, further in (
        ("units", 12.5 * 2, {"bitrate": 12.5 * 13, "used": 100 * 4 / 8192}),
        ("leakage-voice", 50.0, {"probe": 1.0}),
        ("leakage-emotion", 50.0, {"probe": 1.0}),
    ):
        config = SuiteConfig(model=str(model), data=str(tmp_path), output_dir=str(tmp_path / name))
        [found] = run_suite([build_task(name, config)], config, "t", High())
        assert found.value == value and further.items() <= found.extra.items()
        with pytest.raises(InputError, match="is none of 0 to 4095; count them by their own"):
            other = dataclasses.replace(config, model=str(tiny_checkpoint), output_dir=str(tmp_path / f"{name}-other"))
            run_suite([build_task(name, other)], other, "t", High())


def test_tasks_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown"):
        build_task("magic", SuiteConfig())
    with pytest.raises(InputError, match="--data"):
        build_task("docvqa", SuiteConfig())
    (tmp_path / "meta.jsonl").write_text('{"audio": "a.wav", "text": "q", "answer": "x", "group": "happy/low"}\n')
    config = SuiteConfig(data=str(tmp_path), output_dir=str(tmp_path / "run"))
    [item] = build_task("dialogue-unit-in-text-out", config).examples()
    assert item.facts == {"emotion": "happy", "pitch": "low"}
    assert build_task("own", config).name.startswith("own-")
    assert build_task("web-questions-s2t", config).judge == "contains a reference"
    assert len(list(build_task("styles", config).examples())) == 24
    assert build_task("phones", config).unit == "%"
    with pytest.raises(InputError, match="FunASR"):
        build_task("styles", dataclasses.replace(config, emotion_judge="iic/emotion2vec_plus_large"))
    with pytest.raises(InputError, match="no Whisper model"):
        build_task("reconstruction", dataclasses.replace(config, whisper=str(tmp_path)))
    with pytest.raises(InputError, match="--judge-model"):
        build_task("web-questions-s2t", SuiteConfig(data=str(tmp_path), judge_url="http://x"))
    with pytest.raises(InputError, match="Whisper"):
        build_task("triviaqa-s2s", SuiteConfig(data=str(tmp_path), whisper=str(tmp_path)))
    with pytest.raises(InputError, match="tsv"):
        build_task("ai2d", config)


def test_the_command_line_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.register(parser)
    for line, message in (
        ("compare one", "two runs"),
        ("docvqa data.json", "use --data"),
        ("all", "--offline"),
        ("own --limit -1 --data x", "negative"),
        ("own --endpoint http://x --data x", "only latency"),
        ("latency --endpoint http://x", "--endpoint-model"),
        (f"all --data {tmp_path}", "bears a task's name"),
    ):
        with pytest.raises(InputError, match=message):
            cli.run(parser.parse_args(line.split()))


def test_all_runs_what_lies_in_a_folder_and_names_the_rest(tmp_path: Path) -> None:
    (tmp_path / "docvqa.json").write_text(
        json.dumps({"data": [{"questionId": 1, "question": "q", "image": "a.png", "answers": ["x"]}]})
    )
    (tmp_path / "mmbench.tsv").write_text("index\tquestion\n")
    found = {t.task if isinstance(t, Figure) else t.name: t for t in tasks_in(tmp_path, SuiteConfig())}
    assert set(found) == set(TASKS) and isinstance(found["docvqa"], MetricTask)
    broken, absent = found["mmbench"], found["ai2d"]
    assert isinstance(broken, Figure) and "'answer' is missing" in broken.missing
    assert isinstance(absent, Figure) and "no file or folder" in absent.missing


def test_figures_reach_a_document(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.jsonl").write_text('{"text": "Hello?", "answer": "hi"}\n')
    card = tmp_path / "card.md"
    card.write_text(f"<!-- figures of emova eval own -->\n{END}\n")
    parser = argparse.ArgumentParser()
    cli.register(parser)
    line = ["own", "--data", str(tmp_path / "data"), "--model", str(tiny_checkpoint), "--out", str(tmp_path / "run")]
    assert cli.run(parser.parse_args([*line, "--refresh", str(card)])) == 0
    assert "| own-data |" in card.read_text() and "emova eval own" in card.read_text()


def test_own_data_end_to_end_with_a_real_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> None:
    Image.new("RGB", (30, 30), "red").save(tmp_path / "a.png")
    lines = [
        {"id": "a", "image": "a.png", "text": "Colour?", "answer": "red"},
        {"id": "b", "image": "missing.png", "text": "Colour?", "answer": "red"},
    ]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    parser = argparse.ArgumentParser()
    cli.register(parser)
    out = tmp_path / "run"
    line = ["own", "--data", str(tmp_path), "--model", str(tiny_checkpoint), "--out", str(out)]
    assert cli.run(parser.parse_args(line)) == 0
    [found] = json.loads((out / "results.json").read_text())["figures"]
    assert found["count"] == 2 and found["failures"] == 1
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "What failed" in text and "missing.png" in text
    assert cli.run(parser.parse_args(["compare", str(out), str(out)])) == 0


def test_other_toolkits_messages(tmp_path: Path) -> None:
    class Listener:
        def listen(self, audio: Any) -> list[int]:
            return [len(audio)]

    picture = Image.new("RGB", (5, 5))
    parts: list[dict[str, object]] = [
        {"type": "image", "url": picture},
        {"type": "text", "text": "q"},
        {"type": "audio", "url": {"array": np.zeros(8000), "sampling_rate": 8000}},
    ]
    content: list[dict[str, Any]] = to_content(parts, Listener())
    assert content[0]["image"].size == (5, 5) and content[1]["text"] == "q" and content[2]["units"] == [16000]
    stereo = np.stack([np.zeros(8000), np.ones(8000)])
    decoder = types.SimpleNamespace(
        get_all_samples=lambda: types.SimpleNamespace(data=torch.from_numpy(stereo), sample_rate=16000)
    )

    class Hears:
        def listen(self, audio: Any) -> list[Any]:
            return [audio]

    # As lmms-eval's spoken tasks hand it over: decoded with channels first or last, a decoder, bytes, a path.
    for value in ({"array": stereo, "sampling_rate": 16000}, {"array": stereo.T, "sampling_rate": 16000}, decoder):
        found = to_content([{"type": "audio", "url": value}], Hears())[0]["units"]
        assert isinstance(found, list)
        samples = np.asarray(found[0])
        assert samples.shape == (8000,) and samples.dtype == np.float32 and samples == pytest.approx(0.5)
    for given, wanted in (
        ({"bytes": b"RIFF", "path": "a.wav"}, b"RIFF"), ({"bytes": None, "path": "a.wav"}, "a.wav"), (b"RIFF", b"RIFF"),
    ):  # fmt: skip
        assert to_content([{"type": "audio", "url": given}], Hears())[0]["units"] == [wanted]
    with pytest.raises(InputError, match="net"):
        to_content([{"type": "image", "value": "https://x/y.png"}], Listener())
    with pytest.raises(InputError, match="video"):
        to_content([{"type": "video", "value": "x"}], Listener())
    assert cut_at("yes\n\nno", ["\n\n"]) == "yes" and cut_at("yes", None) == "yes"


def test_vlmevalkit_and_lmms_eval_get_answers(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from emova_eval.adapters.vlmevalkit import EmovaVLM

    Image.new("RGB", (30, 30), "red").save(tmp_path / "a.png")
    model = EmovaVLM(str(tiny_checkpoint), max_new_tokens=4)
    assert isinstance(model.generate([str(tmp_path / "a.png"), "Colour?"]), str)

    # A stand-in with lmms-eval's names; the real toolkit is not a dependency.
    base = types.ModuleType("lmms_eval.api.model")
    base.lmms = type("lmms", (), {"__init__": lambda self: setattr(self, "task_dict", {})})  # type: ignore[attr-defined]
    registry = types.ModuleType("lmms_eval.models.registry_v2")
    registry.ModelManifest = types.SimpleNamespace  # type: ignore[attr-defined]
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", base)
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    from emova_eval.adapters.lmms_eval_manifest import manifest

    module, _, name = manifest().chat_class_path.rpartition(".")
    monkeypatch.delitem(sys.modules, module, raising=False)
    emova = getattr(__import__(module, fromlist=[name]), name)(pretrained=str(tiny_checkpoint), max_new_tokens=4)
    emova.task_dict = {"t": {"test": [{"q": "Colour?"}]}}
    ask = lambda doc: [{"role": "user", "content": [{"type": "text", "text": doc["q"]}]}]  # noqa: E731
    request = types.SimpleNamespace(args=("", ask, {"until": ["\n\n"]}, 0, "t", "test"))
    assert len(emova.generate_until([request])) == 1 and emova.is_simple is False
    film = lambda doc: [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]  # noqa: E731
    two = [types.SimpleNamespace(args=("", each, {}, 0, "t", "test")) for each in (film, ask)]
    answers = emova.generate_until(two)
    assert (
        answers[0] == ""
        and len(answers) == 2
        and "t 0: a message has a part of kind 'video'" in capsys.readouterr().err
    )
    monkeypatch.delitem(sys.modules, module, raising=False)
