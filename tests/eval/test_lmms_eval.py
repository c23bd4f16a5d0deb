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


SAVE_HEARD = """import json, sys
import emova.core.compat
from datasets import Audio, Dataset, DatasetDict, Features, Image, Sequence, Value
kinds = {"audio": Audio(), "image": Image(), "options": Sequence(Value("string"))}
for task in json.load(open(sys.argv[1])):
    features = Features({key: kinds.get(key, Value("string")) for key in task["docs"][0]})
    found = Dataset.from_list(task["docs"], features=features)
    DatasetDict({task["split"]: found}).save_to_disk(task["folder"])
"""
LOCAL = """include: {tasks}/{file}.yaml
task: emova_{name}
dataset_path: {folder}
dataset_name: null
dataset_kwargs:
  load_from_disk: true
test_split: {split}
output_type: generate_until
"""


def spoken_tasks(root: Path) -> dict[str, tuple[str, str, list[dict[str, object]]]]:
    """A task of lmms-eval's own -> its file, its split, and documents in its columns out of the shipped fixtures."""
    from emova_eval.suite.offline import FIXTURES, questions, read_rows

    asked = questions()
    about = next(item for item in asked if item.images and item.facts.get("key") not in (None, "yes", "no"))
    spoken = [{"audio": item.audio, "text": item.text, "answer": item.answers[0]} for item in asked[:2]]
    english = [{"audio": row["audio"], "transcription": row["text"], "path": row["audio"], "language": "English"}
               for row in spoken]  # fmt: skip
    [first, *_] = read_rows("chinese.jsonl")
    chinese = {"audio": str(FIXTURES / first["audio"]), "transcription": first["text"], "path": first["audio"],
               "language": "Mandarin Chinese"}  # fmt: skip
    options = [about.facts["key"], "a green whale", "a violin", "the number ninety"]
    choice = {"audio": about.audio, "image": about.images[0], "question": "What is right?", "options": options,
              "answer": options[0], "task type": "shapes"}  # fmt: skip
    letters = {"audio": spoken[0]["audio"], "prompt": "Which one?", "reference": "A"}
    heard = {"audio": spoken[1]["audio"], "task_name": "识别说话人性别", "task_answer": "男",
             "subset": "gender"}  # fmt: skip
    return {
        "voicebench_openbookqa": ("voicebench/voicebench_openbookqa", "test", [letters]),
        "voicebench_advbench": ("voicebench/voicebench_advbench", "test", [{**letters, "prompt": "Is that safe?"}]),
        "omni_bench": ("omni_bench/omni_bench", "train", [choice]),
        "fleurs_en": ("fleurs/fleurs_en", "test", english),
        "fleurs_cmn_hans_cn": ("fleurs/fleurs_cmn_hans_cn", "test", [chinese]),
        "open_asr_librispeech": ("open_asr/openasr_librispeech_test_clean", "test.clean", spoken),
        "paralinguistic_gender": ("step2_audio_paralinguistic/step2_audio_paralinguistic_gender", "gender", [heard]),
    }  # fmt: skip


@pytest.mark.skipif(not PYTHON, reason="lmms-eval is not installed: `make setup-lmms-eval`, or EMOVA_LMMS_PYTHON")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lmms_evals_own_spoken_tasks_ask_and_score(tmp_path: Path) -> None:
    """voicebench, omni_bench, fleurs, open_asr and a paralinguistic task: their prompts, sound and scoring, our data.

    The paralinguistic ones are scored by a language model, which is not reached here: their answer comes, their score
    is 0.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    offline |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    run = lambda *words: subprocess.run(  # noqa: E731
        [PYTHON, *words], cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True
    )
    found = run("-c", "import lmms_eval.tasks, sys; sys.stdout.write(lmms_eval.tasks.__path__[0])")
    assert found.returncode == 0, found.stderr[-2000:]
    tasks = spoken_tasks(tmp_path)
    written = []
    (tmp_path / "tasks").mkdir()
    for name, (file, split, docs) in tasks.items():
        folder = tmp_path / "data" / name
        written.append({"folder": str(folder), "split": split, "docs": docs})
        text = LOCAL.format(tasks=found.stdout.splitlines()[-1], file=file, name=name, folder=folder, split=split)
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    (tmp_path / "docs.json").write_text(json.dumps(written))
    saved = run("-c", SAVE_HEARD, str(tmp_path / "docs.json"))
    assert saved.returncode == 0, saved.stderr[-2000:]
    names = ",".join(f"emova_{name}" for name in tasks)
    words = ["--model", "emova", "--model_args", "pretrained=emova-nano,max_new_tokens=40", "--tasks", names]
    words += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = run("-m", "emova_eval.adapters.run_lmms_eval", *words)
    files = list((tmp_path / "out").rglob("*_results.json"))
    assert done.returncode == 0 and len(files) == 1, done.stdout[-2000:] + done.stderr[-4000:]
    [result] = files
    results = json.loads(result.read_text())["results"]
    for name, (_, _, docs) in tasks.items():
        [log] = (tmp_path / "out").rglob(f"*_samples_emova_{name}.jsonl")
        answered = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(answered) == len(docs) and all(str(row["filtered_resps"]).strip() for row in answered), name
        scores = [value for key, value in results[f"emova_{name}"].items() if key.endswith(",none")]
        assert any(isinstance(value, (int, float)) for value in scores), (name, results[f"emova_{name}"])
    # emova-nano hears what the questions are about, by a voice that it never learnt from; asked in lmms-eval's words it
    # may answer in place of writing down, which is then what the error rates say.
    for name in ("fleurs_en", "open_asr_librispeech"):
        [log] = (tmp_path / "out").rglob(f"*_samples_emova_{name}.jsonl")
        said = [str(json.loads(line)["filtered_resps"]).lower() for line in log.read_text().splitlines()]
        assert "pig" in said[0] and "shark" in said[1], said


def test_without_lmms_eval_the_launcher_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from emova.core.errors import InputError
    from emova_eval.adapters.run_lmms_eval import main

    monkeypatch.setitem(sys.modules, "lmms_eval.__main__", None)
    with pytest.raises(InputError, match="setup-lmms-eval"):
        main()
