"""Small trainings of both codecs' tokenizers and decoders as YAML, on one shard of speech that a test may damage."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from emova.core.config import config_dict
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig
from emova.speech.detokenizer.flow_hift.unit_encoder import UnitEncoderConfig
from emova_train.core.config import RunConfig
from emova_train.flow.config import FlowRecipe
from emova_train.s2u.data import SourceConfig
from emova_train.s2u.program import S2UTrainConfig
from emova_train.u2s.config import U2SRecipe
from emova_train.vq.data import TextSource
from emova_train.vq.program import VQTrainConfig
from tests.fixtures_codecs import FLOW, make_vq_and_flow
from tests.fixtures_speech import make_speech_tokenizer
from tests.train.fixtures_vq import TINY, flac, write_whisper

KINDS = ("s2u", "u2s", "vq", "flow")


def write_speech(path: Path, recordings: int = 3) -> None:
    """Recordings with all that any of the trainings asks of them."""
    meta = {"text": "hello", "phones": ["h", "ə", "l", "O"], "alignment": None, "family": "one", "voice": "v",
            "gender": "female", "emotion": "neutral", "pitch": "normal"}  # fmt: skip
    with tarfile.open(path, "w") as tar:
        for number in range(recordings):
            for kind, content in (("flac", flac(number, 1)), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"clip{number}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def rewritten(shard: Path, kind: str, change: Callable[[bytes], bytes]) -> None:
    """The files of one kind of a shard changed."""
    with tarfile.open(shard) as tar:
        members = [(each.name, file.read()) for each in tar if (file := tar.extractfile(each)) is not None]
    with tarfile.open(shard, "w") as tar:
        for name, content in members:
            content = change(content) if name.endswith(kind) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_parts(folder: Path) -> Path:
    """What the trainings start from: a Whisper, and a tokenizer of each codec."""
    write_whisper(folder / "whisper")
    make_speech_tokenizer().save_pretrained(folder / "s2u")
    make_vq_and_flow(24)[0].save_pretrained(folder / "vq")
    return folder


def write_training(kind: str, parts: Path, folder: Path) -> Path:
    """The YAML of one training, on the shards of ``folder``, which is also written to."""
    speech = str(folder / "speech-*.tar")
    run = RunConfig(str(folder / "run"), max_steps=1, batch_size=1, save_every=1, eval_every=1, precision="fp32")
    config: S2UTrainConfig | VQTrainConfig | U2SRecipe | FlowRecipe
    if kind == "s2u":
        model = make_speech_tokenizer().config
        config = S2UTrainConfig(model=model, run=run, train=[SourceConfig(speech)], cache=str(folder / "cache"))
    elif kind == "vq":
        config = VQTrainConfig(
            model=TINY, run=run, whisper=str(parts / "whisper"), train=[TextSource(speech)], cache=str(folder / "cache")
        )
    else:
        recipe = U2SRecipe() if kind == "u2s" else FlowRecipe(model=flow_model())
        data = replace(
            recipe.data, train=[speech], validation=[speech], cache=str(folder / "cache"), processes=1,
            tokenizer=str(parts / ("s2u" if kind == "u2s" else "vq")),
        )  # fmt: skip
        config = replace(recipe, data=data, run=run)
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_dict(config)))))
    return path


def flow_model() -> FlowHiFTConfig:
    """A decoder of the tokenizer's 24 kinds of units."""
    units: UnitEncoderConfig = replace(FLOW.units, codes=24)
    return replace(FLOW, units=units)
