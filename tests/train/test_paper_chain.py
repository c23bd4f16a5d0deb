"""The papers' recipes from end to end in miniature: fixtures of the registry's sources are converted, the stages are
trained in a row with their data sections as they are shipped, and what comes out is assembled and answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emova.cli.main import main
from emova.core.config import load_config, save_config
from emova.model.building import ImageShape, ModelConfig, ProjectorShape, TextShape
from emova_data.sources.registry import registry
from emova_train.core.config import ParallelConfig
from emova_train.stages.config import InitConfig, StageConfig
from emova_train.stages.program import train
from emova_train.stages.validation import SampleConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"
SOURCES = {
    "lcs-558k": ("llava", {"files": "chat.json", "images": "images"}),
    "sharegpt4v-pt": ("sharegpt4v", {"files": "captions.json"}),
    "allava-caption": ("allava", {"files": "**/ALLaVA-Caption-*.json"}),
    "allava-caption-zh": ("allava", {}),
    "sharegpt-4o": ("sharegpt4o", {}),
    "synthdog-en": ("synthdog", {"files": "data/*.jsonl"}),
    "synthdog-zh": ("synthdog", {"files": "data/*.jsonl"}),
    "mmc-alignment": ("pairs", {"files": "rows.jsonl", "images": ""}),
    "k12-printing": ("onevision", {"files": "k12_printing/*.jsonl"}),
    "ureader-tr": ("sharegpt4v", {"files": "captions.json", "images": ""}),
    "librispeech": ("librispeech", {}),
    "aishell-2": ("aishell2", {}),
    "magpie-pro": ("magpie", {"files": "rows.jsonl"}),
    "sharegpt4v-sft": ("sharegpt4v", {"files": "captions.json"}),
    "internvl-sft": ("cambrian", {"files": "part.jsonl", "images": ""}),
    "meteor": ("llava", {"files": "chat.json", "images": "images"}),
    "cauldron": ("cauldron", {"files": "*/*.jsonl"}),
    "cambrian": ("cambrian", {"files": "part.jsonl"}),
    "llava-onevision": ("onevision", {"files": "*/*.jsonl"}),
}
"""A registered source and the folder of its fixture, with options where the fixture is in another file format, or where
the source's own form is that of another's fixture. The pictures are a few pixels wide, so that no source selects."""
OMNI = ("omni-speech-text", "omni-speech-image")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Every set that the papers' configs name, made by the commands that make it."""
    root = tmp_path_factory.mktemp("chain")
    for name, (folder, options) in SOURCES.items():
        source = registry()[name]
        entry = {
            "name": name, "folder": str(FIXTURES / folder), "converter": source.converter,
            "modality": list(source.modality), "options": {**source.options, **options},
        }  # fmt: skip
        path = root / f"{name}.yaml"
        path.write_text(json.dumps(entry))
        assert main(["data", "convert", str(path), "--root", str(root), "--max-skip-rate", "1"]) == 0
    for name in ("librispeech", "aishell-2"):
        assert main(["data", "tokenise", name, "--root", str(root), "--tokenizer", "emova-nano"]) == 0
    for name, said in zip(OMNI, ("magpie-pro", "sharegpt4v-sft"), strict=True):
        told = [f"input={root / 'sets' / said}", f"output={root / 'sets' / name}", f"name={name}", "max_words=200"]
        assert main(["data", "synthesise", "omni", "tokenizer=emova-nano", *told]) == 0
    named = {
        name for stage in ("1", "2", "3") for name in load_config(StageConfig, f"sets/paper/stage{stage}").data.sets
    }
    assert {path.name for path in (root / "sets").iterdir()} >= named
    return root


@pytest.mark.timeout(900)
def test_the_papers_stages_from_sources_to_a_model_that_answers(sets: Path, tiny_tokenizer, tiny_parts, capsys) -> None:
    tiny_tokenizer.save_pretrained(sets / "tokenizer")
    text = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=8192)
    shapes = ModelConfig(text, tiny_parts[0], ProjectorShape(width=16, depth=1), ImageShape(max_tiles=9))
    save_config(shapes, sets / "model.yaml")
    before = ""
    for number in ("1", "2", "3"):
        config = load_config(StageConfig, f"sets/paper/stage{number}")
        init = InitConfig(checkpoint=before, model=str(sets / "model.yaml"), tokenizer=str(sets / "tokenizer"))
        output = sets / f"stage{number}"
        run = replace(
            config.run, output_dir=str(output), epochs=0.0, max_steps=2, global_batch_size=4, batch_size=2, workers=0,
            threads=1, precision="fp32", save_every=2, eval_every=2, log_every=1, parallel=ParallelConfig(),
        )  # fmt: skip
        shards = replace(config.data.shards, root=str(sets / "sets"), window=2, max_skip_rate=1.0)
        tiny = replace(
            config, run=run, init=init, data=replace(config.data, shards=shards), samples=SampleConfig(answers=0),
            allow_random=True, gradient_checkpointing=False,
        )  # fmt: skip
        assert tiny.data.sets == config.data.sets and tiny.data.shards.records == config.data.shards.records
        result = train(tiny)
        assert result.steps == 2 and result.skipped_steps == 0
        before = str(output / "export")
    parts = ["--speech-tokenizer", "emova-nano", "--speech-detokenizer", "emova-nano"]
    assert main(["train", "assemble", "--model", before, *parts, "--out", str(sets / "model")]) == 0
    capsys.readouterr()
    assert main(["chat", "--model", str(sets / "model"), "--text", "Hello"]) == 0
