"""The papers' recipes from end to end in miniature: fixtures of the registry's sources are converted, the stages are
trained in a row with their data sections as they are shipped, and what comes out is assembled and answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emova.cli.main import main
from emova.core.config import load_config, save_config
from emova.model.building import ImageShape, ModelConfig, ProjectorShape, TextShape
from emova_data.sources.registry import mixture, registry
from emova_train.core.config import ParallelConfig
from emova_train.stages.config import InitConfig, StageConfig
from emova_train.stages.program import train
from emova_train.stages.validation import SampleConfig
from tests.train.fixtures_sets import MAKERS, write_sets

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"
SOURCES = {
    "lcs-558k": ("llava", {"files": "chat.json", "images": "images"}),
    "sharegpt4v-pt": ("sharegpt4v", {"files": "captions.json"}),
    "allava-caption": ("allava", {}),
    "synthdog-en": ("synthdog", {"files": "data/*.jsonl"}),
    "k12-printing": ("onevision", {"files": "k12_printing/*.jsonl"}),
    "magpie-pro": ("magpie", {"files": "rows.jsonl"}),
    "librispeech": ("librispeech", {}),
    "cauldron": ("cauldron", {"files": "*/*.jsonl"}),
    "cambrian": ("cambrian", {"files": "part.jsonl"}),
}
"""A registered source and the folder of its fixture, with options where the fixture is in another file format."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Every set that the stages name: converted from fixtures where there are any, else small ones of the same kind."""
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
    assert main(["data", "tokenise", "librispeech", "--root", str(root), "--tokenizer", "emova-nano"]) == 0
    made = write_sets(root / "made", records=6, per_shard=6)
    for stage in ("1", "2", "3"):
        for name in mixture(stage):
            speech = registry()[name].modality[0] == "speech" and registry()[name].access != "generated"
            wanted = root / "sets" / (f"{name}-units" if speech else name)
            if not wanted.is_dir():
                kind = "speech" if speech else "omni" if name.startswith("omni") else "pictures"
                shutil.copytree(made / kind, wanted)
    assert set(MAKERS) >= {"speech", "omni", "pictures"}
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
