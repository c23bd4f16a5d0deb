"""The papers' codec from corpora as they are published, on two processes: sources, shards, pre-training, S2U, units,
U2S, styles.

The configs are the shipped ones with their data sections; only shapes and the length of the runs are small.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.cli.main import main
from emova.core.errors import InputError
from emova.speech.style import StylePrototypes
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova.speech.tokenizer.units import units_of
from emova_train.core.metrics import read
from tests.train.test_parallel import SECONDS, run_module

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]

SPLIT = ["zero1", "zero2", "zero3", "fsdp"]
RUN = {
    "max_steps": 4, "global_batch_size": 4, "save_every": 2, "eval_every": 4, "log_every": 1, "workers": 1,
    "precision": "fp32", "warmup_ratio": 0.0,
}  # fmt: skip
S2U = {
    "base": "s2u/paper", "start_from": "runs/s2u-paper-pretrain/export",
    "model": {
        "stages": [
            {"convolutions": [{"channels": 16, "kernel": 3, "stride": 1}, {"channels": 16, "kernel": 3, "stride": 2}],
             "layers": 1, "heads": 2, "ffn": 32, "positions": True},
            {"convolutions": [{"channels": 16, "kernel": 2, "stride": 2}], "layers": 1, "heads": 2, "ffn": 32},
        ],
        "decoder": {"width": 16, "layers": 1, "heads": 2, "ffn": 16},
    },
    "run": RUN, "batch_seconds": 2.5, "stream": {"pool": 5, "block": 2},
}  # fmt: skip
PRETRAIN = {
    "base": "s2u/paper-pretrain", "model": S2U["model"], "run": {**RUN, "output_dir": "runs/s2u-paper-pretrain"},
    "train": [{"pattern": f"data/sets/{name}/{name}-train-*.tar"} for name in ("librispeech", "aishell-1", "libritts")],
    "batch_seconds": 2.5, "stream": {"pool": 5, "block": 2},
    "contrast": {"width": 16, "distractors": 5, "max_shift": 2, "mask_frames": 4},
}  # fmt: skip
U2S = {
    "base": "u2s/paper-pretrain",
    "model": {
        "style": {"style_size": 8, "channels": 8, "n_mels": 16},
        "vits": {
            "latent_channels": 8,
            "units": {"digit_channels": 4, "channels": 16, "unit_dilations": [1], "unit_lookahead": [1],
                      "frame_dilations": [1], "frame_lookahead": [1]},
            "flow": {"layers": 2, "channels": 8, "depth": 1}, "pitch": {"hidden": 16},
            "head": {"hifigan": {"channels": 16}},
        },
    },
    "posterior": {"channels": 8, "layers": 2}, "discriminators": {"channels": [4, 4, 4, 4]},
    "data": {"processes": 1, "stream": {"pool": 8, "block": 2}, "validation_windows": 2},
    "run": {"max_steps": 4, "global_batch_size": 8, "batch_size": 2, "save_every": 2, "eval_every": 4, "log_every": 1,
            "workers": 1, "precision": "fp32"},
    "samples": 1,
}  # fmt: skip


def say(path: Path, number: int, rate: int = 16000) -> None:
    time = np.arange(int(rate * (1.2 + 0.05 * number))) / rate
    pitch = 110 + 12 * number
    buzz = sum(np.cos(2 * np.pi * pitch * k * time) / k for k in range(1, 9)) * (0.51 + 0.49 * np.sin(9 * time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * buzz, rate)


def write_corpora(folder: Path) -> None:
    """LibriSpeech (training and evaluation), LibriTTS and AISHELL-1 in miniature, in their own layouts."""
    for part, name in (("train-clean-100", "librispeech"), ("test-clean", "librispeech-eval")):
        chapter = folder / name / "LibriSpeech" / part / "19" / "198"
        for number in range(6):
            say(chapter / f"19-198-{number:04d}.flac", number)
        lines = [f"19-198-{number:04d} HELLO NUMBER {['ONE', 'TWO', 'SIX'][number % 3]}" for number in range(6)]
        (chapter / "19-198.trans.txt").write_text("\n".join(lines))
    chapter = folder / "libritts" / "LibriTTS" / "train-clean-100" / "19" / "198"
    for number in range(6):
        say(chapter / f"19_198_{number}.wav", number, 24000)
        (chapter / f"19_198_{number}.normalized.txt").write_text("Good day.")
    spoken = folder / "aishell-1" / "data_aishell"
    for number in range(6):
        say(spoken / "wav" / "train" / "S0002" / f"BAC{number}.wav", number)
    (spoken / "transcript").mkdir()
    lines = [f"BAC{number} 你好 吗" for number in range(6)]
    (spoken / "transcript" / "aishell_transcript_v0.8.txt").write_text("\n".join(lines), encoding="utf-8")


def write(path: Path, content: dict) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def together(jobs: list, folder: Path) -> None:
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    run_module(["tests.train.codec_worker", str(path)], 2, folder)


def whole_and_resumed(program: str, config: str, name: str, strategies: list[str]) -> list:
    """Jobs: a run to its end, and its copy that goes on from the middle."""
    jobs = []
    for strategy in strategies:
        run = f"runs/{run_name(name, strategy)}"
        told = [f"run.output_dir={run}", f"run.parallel.strategy={strategy}"]
        jobs += [[program, config, told, copy] for copy in ("", f"{run}-resumed")]
    return jobs


def run_name(name: str, strategy: str) -> str:
    return name if strategy == "ddp" else f"{name}-{strategy}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything lies: sets, the two trained parts, and runs that were interrupted."""
    folder = tmp_path_factory.mktemp("codec")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_corpora(folder / "data" / "sources")
        for name in ("librispeech", "librispeech-eval", "libritts", "aishell-1"):
            assert main(["data", "convert", name, "--per-shard", "4"]) == 0
        config = write(folder / "s2u.yaml", S2U)
        short = ["run.max_steps=2", "run.eval_every=9"]
        pretrain = write(folder / "pretrain.yaml", PRETRAIN)
        together(whole_and_resumed("s2u-pretrain", pretrain, "s2u-paper-pretrain", ["ddp", "zero2"]), folder)
        together(whole_and_resumed("s2u", config, "s2u-paper", ["ddp", *SPLIT]), folder)
        for name in ("libritts", "aishell-1"):
            assert main(["data", "tokenise", name, "--tokenizer", "runs/s2u-paper/export", "--keep-audio"]) == 0
        config = write(folder / "u2s.yaml", U2S)
        together(whole_and_resumed("u2s", config, "u2s-paper-pretrain", ["ddp", "fsdp"]), folder)
        for told in (["candidates=4"], ["candidates=1", "name=styles-test", "output=data/sets/styles-test"]):
            assert main(["data", "synthesise", "styles", "data/styles", *told]) == 0
        style = {**U2S, "base": "u2s/paper-style", "data": {"processes": 1, "validation_windows": 2}}
        together(
            [["u2s", write(folder / "style.yaml", style), ["run.output_dir=runs/u2s-paper-style", *short], ""]], folder
        )
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", *SPLIT])
def test_a_resumed_run_of_two_equals_an_uninterrupted_one(folder: Path, strategy: str) -> None:
    for name in ("s2u-paper-pretrain", "s2u-paper", "u2s-paper-pretrain"):
        if name == "s2u-paper-pretrain" and strategy not in ("ddp", "zero2"):
            continue  # its teacher follows whole weights
        if name.startswith("u2s") and strategy.startswith("zero"):
            continue  # refused, see below
        runs = [folder / "runs" / f"{run_name(name, strategy)}{end}" for end in ("", "-resumed")]
        losses = [
            {row["step"]: row["loss"] for row in read(run / "metrics.jsonl") if row["kind"] == "train"} for run in runs
        ]
        assert losses[0] == losses[1] and sorted(losses[0]) == [1, 2, 3, 4]
        states = [load_file(run / "checkpoint-4" / "model.safetensors") for run in runs]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name


def test_both_processes_read_and_their_places_are_kept(folder: Path) -> None:
    for whole in ("s2u-paper-pretrain", "s2u-paper", "u2s-paper-pretrain"):
        last = folder / "runs" / whole / "checkpoint-4"
        places = [json.loads((last / f"data-{rank}.json").read_text()) for rank in range(2)]
        assert [place["readers"] for place in places] == [2, 2]
        assert all(place["position"] == 8 for place in places)  # four steps of two passes each


def test_the_trained_parts_go_together(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "runs" / "s2u-paper" / "export")
    voice = load_detokenizer(folder / "runs" / "u2s-paper-pretrain" / "export")
    units = tokenizer.encode(torch.randn(1, 16000) * 0.1)[0]
    with torch.inference_mode():
        sound = voice.decode(units[None], torch.zeros(1, voice.style_size))
    assert len(units) == 25 and sound.shape[-1] == 25 * 960
    assert units_of(folder / "runs" / "u2s-paper-pretrain" / "export") == units_of(folder / "runs/s2u-paper/export")


def test_the_second_step_learns_styles_and_their_prototypes_are_chosen(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    first, second = (
        load_detokenizer(Path("runs") / name / "export") for name in ("u2s-paper-pretrain", "u2s-paper-style")
    )
    assert isinstance(second, torch.nn.Module) and isinstance(first, torch.nn.Module)
    before, after = first.state_dict(), second.state_dict()
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    voice = "runs/u2s-paper-style/export"
    told = ["--detokenizer", voice, "--recogniser", "acoustic", "--candidates", "2"]
    assert main(["train", "prototypes", "style.yaml", *told]) == 0
    assert "chosen by acoustic" in capsys.readouterr().out
    assert json.loads((folder / voice / "style_prototypes.json").read_text())["recogniser"] == "acoustic"
    assert len(StylePrototypes.load(folder / voice / "style_prototypes.safetensors").styles) == 24


@pytest.mark.parametrize("strategy", SPLIT)
def test_a_tokenizer_that_was_split_learns_alike_and_is_exported_whole(folder: Path, strategy: str) -> None:
    run = folder / "runs" / run_name("s2u-paper", strategy)
    whole = load_file(run / "checkpoint-4" / "model.safetensors")
    exported = load_tokenizer(run / "export")
    assert isinstance(exported, S2UTokenizer)
    for name, tensor in exported.state_dict().items():
        kept = whole[f"model.{name}"].float()
        assert torch.allclose(tensor.float(), kept, atol=float(kept.abs().max()) / 100), name  # in fewer bits
    assert first_loss(run) == pytest.approx(first_loss(folder / "runs" / "s2u-paper"), rel=1e-4)


def test_a_voice_that_was_split_learns_alike_and_is_exported_whole(folder: Path) -> None:
    """Generator and discriminators are clipped each by its own norm, over all processes."""
    run, alone = (folder / "runs" / run_name("u2s-paper-pretrain", strategy) for strategy in ("fsdp", "ddp"))
    assert first_loss(run) == pytest.approx(first_loss(alone), rel=1e-3)
    rows = [next(row for row in read(each / "metrics.jsonl") if row["kind"] == "train") for each in (run, alone)]
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=0.02)
    states = [load_file(each / "checkpoint-4" / "model.safetensors") for each in (run, alone)]
    moved = load_file(run / "checkpoint-2" / "model.safetensors")
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][key], moved[key]) for key in moved if key.startswith("discriminators."))
    voice = load_detokenizer(run / "export")
    assert isinstance(voice, torch.nn.Module)
    names = [name for name in voice.state_dict() if f"detokenizer.{name}" in states[0] and "gain" not in name]
    assert names
    for name in names:
        kept = states[0][f"detokenizer.{name}"].float()
        assert torch.allclose(voice.state_dict()[name].float(), kept, atol=float(kept.abs().max()) / 50 + 1e-6), name


def first_loss(run: Path) -> float:
    return next(row["loss"] for row in read(run / "metrics.jsonl") if row["kind"] == "train")


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_voice_under_deepspeed_is_refused_with_the_reason(folder: Path, strategy: str, monkeypatch) -> None:
    from emova.core.config import load_config
    from emova_train.u2s.program import U2SRecipe, train

    monkeypatch.chdir(folder)
    changed = [f"run.parallel.strategy={strategy}", "run.output_dir=runs/none", "run.workers=0"]
    with pytest.raises(InputError, match=f"strategy={strategy}: a voice .* clips all by one norm; give ddp, or fsdp"):
        train(load_config(U2SRecipe, str(folder / "u2s.yaml"), changed))
    assert not (folder / "runs" / "none").exists()
