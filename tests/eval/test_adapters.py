"""VoiceBench and UltraEval-Audio get answers: they are asked as those harnesses ask, in their own data's form.

Neither is on PyPI, so what calls here has the shape of their loops: VoiceBench's ``main.py`` hands over a row of a
Hugging Face data set, UltraEval-Audio makes the class that a registry file names and hands over a filled-in prompt.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from emova.core.errors import InputError
from emova_eval.adapters import ultraeval_audio, voicebench
from emova_eval.adapters.messages import with_plain_audio
from emova_eval.suite.offline import questions


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    """A row of ``hlt-lab/voicebench``, its sound decoded by the data set."""
    item = questions()[0]
    samples, rate = soundfile.read(item.audio, dtype="float32")
    return {"prompt": item.text, "audio": {"path": item.audio, "array": samples, "sampling_rate": rate}}


def test_voicebench(tiny_checkpoint: Path, row: dict[str, Any], monkeypatch, capsys) -> None:
    monkeypatch.setenv("EMOVA_MODEL", str(tiny_checkpoint))
    model = voicebench.EmovaAssistant()
    answers = [model.generate_audio(row["audio"], max_new_tokens=8), model.generate_text(row["prompt"])]
    assert json.loads(json.dumps(answers)) == answers and all(isinstance(answer, str) for answer in answers)
    # The same sound at another rate, in two channels, asks the same model the same thing.
    wide = {"array": np.repeat(row["audio"]["array"], 2).reshape(-1, 2), "sampling_rate": row["audio"]["sampling_rate"]}
    assert model.generate_audio(wide, max_new_tokens=8) == answers[0]
    assert 0 < model.generate_ttft(row["audio"]) < 60
    hour = {"array": np.random.default_rng(0).normal(size=16000 * 90).astype(np.float32) / 10, "sampling_rate": 16000}
    assert model.generate_audio(hour) == "" and "voicebench: " in capsys.readouterr().err


def made(name: str, registry: Path, **more: object) -> Any:
    """What UltraEval-Audio's registry makes of ``--model NAME``."""
    spec = yaml.safe_load(registry.read_text())[name]
    module, _, kind = spec["class"].rpartition(".")
    return getattr(import_module(module), kind)(**spec["args"], **more)


def documented(checkpoint: Path, path: Path) -> Path:
    """The registry file of the adapter's own documentation, for this checkpoint."""
    text = (
        (ultraeval_audio.__doc__ or "").split("::\n\n")[1].split("\n\nthen")[0].replace("emova-nano", str(checkpoint))
    )
    path.write_text(text)
    return path


def test_ultraeval_audio(tiny_checkpoint: Path, row: dict[str, Any], tmp_path: Path) -> None:
    registry = documented(tiny_checkpoint, tmp_path / "emova.yaml")
    path = row["audio"]["path"]
    listen = {"type": "audio", "value": path}
    asr = [{"role": "user", "contents": [listen, {"type": "text", "value": "Write down everything you hear."}]}]
    model = made("emova", registry, sample_params={"max_new_tokens": 8})
    assert model.is_chat and isinstance(model.inference(asr), str) and isinstance(model.inference("Hello?"), str)
    system = [{"role": "system", "contents": [{"type": "text", "value": "Be brief."}]}, *asr]
    assert isinstance(model.inference(system, max_new_tokens=4), str)
    heard = made("emova-asr", registry).inference(asr)
    assert heard == made("emova-asr", registry).assistant.transcribe(path)

    spoken = made("emova-speech", registry, output=str(tmp_path / "said"))
    reply = json.loads(spoken.inference([{"role": "user", "contents": [listen]}]))
    assert set(reply) == {"audio", "text"} and Path(reply["audio"]).is_file()
    aloud = Path(spoken.inference({"text": "Good day."}))
    samples, rate = soundfile.read(aloud)
    assert aloud.parent == tmp_path / "said" and aloud != Path(reply["audio"]) and rate == 24000 and len(samples)
    with pytest.raises(InputError, match="cannot be cloned"):
        spoken.inference({"text": "Good day.", "prompt_audio": path, "prompt_text": "Hello."})
    with pytest.raises(InputError, match="the prompt has no audio"):
        made("emova-asr", registry).inference("Hello?")


def test_sound_of_a_row_says_that_it_is_sound(row: dict[str, Any]) -> None:
    """What lmms-eval's message builder gets: a decoder or a decoded dictionary becomes one that has a type."""

    class Decoder:
        def get_all_samples(self) -> Any:
            return SimpleNamespace(data=np.ones((1, 4), np.float32), sample_rate=8000)

    plain = with_plain_audio({"a": Decoder(), "b": row["audio"], "c": "words", "d": {"path": "x.wav"}})
    assert plain["a"]["type"] == plain["b"]["type"] == "audio" and plain["a"]["sampling_rate"] == 8000
    assert "path" not in plain["b"] and plain["c"] == "words" and plain["d"] == {"path": "x.wav"}
