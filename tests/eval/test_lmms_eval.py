"""The real lmms-eval asks emova-nano the questions of a task on local data, without a network, end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Another environment may hold lmms-eval: EMOVA_LMMS_PYTHON names its interpreter.
PYTHON = os.environ.get("EMOVA_LMMS_PYTHON") or (sys.executable if find_spec("lmms_eval") else "")

TASK = """task: emova_weather
dataset_path: {folder}/data
dataset_kwargs:
  load_from_disk: true
test_split: test
output_type: generate_until
doc_to_visual: !function scoring.pictures
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 24
  until: ["\\n\\n"]
process_results: !function scoring.score
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
SCORING = """def pictures(doc):
    return [doc["image"].convert("RGB")]


def score(doc, results):
    return {"right": float(doc["answer"] in results[0].lower())}
"""
SAVE = """import json, sys
from datasets import Dataset, DatasetDict, Features, Image, Value
docs = json.load(open(sys.argv[1]))
kinds = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
DatasetDict({"test": Dataset.from_list(docs, features=kinds)}).save_to_disk(sys.argv[2])
"""


@pytest.mark.skipif(not PYTHON, reason="lmms-eval is not installed: `make setup-lmms-eval`, or EMOVA_LMMS_PYTHON")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_task_of_lmms_eval_runs_end_to_end_offline(tmp_path: Path) -> None:
    from emova_data.nano.pictures import make_picture

    docs = []
    for index in range(2):
        sample = make_picture("weather", 0, index, "test")
        sample.drawn.image.save(tmp_path / f"{index}.png")
        asked = next(question for question in sample.questions if question.type == "weather")
        docs.append({"image": str(tmp_path / f"{index}.png"), "question": asked.question, "answer": asked.key})
    (tmp_path / "docs.json").write_text(json.dumps(docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "weather.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "tasks" / "scoring.py").write_text(SCORING)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    run = lambda *words: subprocess.run(  # noqa: E731
        [PYTHON, *words], cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True
    )
    saved = run("-c", SAVE, str(tmp_path / "docs.json"), str(tmp_path / "data"))
    assert saved.returncode == 0, saved.stderr[-2000:]
    words = ["--model", "emova", "--model_args", "pretrained=emova-nano", "--tasks", "emova_weather"]
    words += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = run("-m", "emova_eval.adapters.run_lmms_eval", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    [log] = (tmp_path / "out").rglob("*_samples_emova_weather.jsonl")
    answered = [json.loads(line) for line in log.read_text().splitlines()]
    assert [answer["target"] for answer in answered] == [doc["answer"] for doc in docs]
    said = [answer["filtered_resps"] for answer in answered]
    assert all(isinstance(text, str) and text.strip() for text in said)
    [result] = (tmp_path / "out").rglob("*_results.json")
    right = sum(doc["answer"] in text.lower() for doc, text in zip(docs, said, strict=True)) / len(docs)
    assert json.loads(result.read_text())["results"]["emova_weather"]["right,none"] == right
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)


def test_without_lmms_eval_the_launcher_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from emova.core.errors import InputError
    from emova_eval.adapters.run_lmms_eval import main

    monkeypatch.setitem(sys.modules, "lmms_eval.__main__", None)
    with pytest.raises(InputError, match="setup-lmms-eval"):
        main()
