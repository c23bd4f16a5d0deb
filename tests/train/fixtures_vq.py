"""A Whisper of random weights, speech in shards and in converted sets, and a config: what the supervised tokenizer is
trained from in the tests."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperModel

from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig
from emova_data.records.records import Draft, Media, Part, Record, message, text
from emova_data.sources.convert import ConvertConfig, convert
from emova_train.core.config import RunConfig
from emova_train.vq.data import TextBatches, TextSet, TextSource, TextStore
from emova_train.vq.program import VQTrainConfig, VQTraining, build
from emova_train.vq.whisper import Whisper, load_whisper

CHARACTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MARKS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
LANGUAGES = ["<|en|>", "<|zh|>", "<|transcribe|>"]
MANY_TOKENS = 51_865
"""Text tokens of the models that know several languages."""
TINY = WhisperVQConfig(
    encoder=EncoderConfig(
        mels=80, width=16, heads=2, ffn=32, layers=1, positions=400, block=16, left_blocks=2, pooling=4, codes=24
    ),
    running_floor=True, reads_phones=True,
    decoder=PhoneDecoderConfig(width=8, layers=1, heads=1, ffn=8, labels_per_unit=4),
)  # fmt: skip


def write_whisper(folder: Path, many: bool = False) -> Path:
    """A small Whisper as transformers saves it; ``many``: one that knows English and Mandarin."""
    torch.manual_seed(0)
    marks = [*MARKS, *(LANGUAGES if many else [])]
    words = [*CHARACTERS, *(f"word{at}" for at in range(MANY_TOKENS - len(CHARACTERS) - len(marks)) if many)]
    config = WhisperConfig(
        vocab_size=len(words) + len(marks), d_model=16, num_mel_bins=80, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=500, max_target_positions=448, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    tokens = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(words)}, merges=[]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokens.add_special_tokens(marks)
    tokens.save(str(folder / "tokenizer.json"))
    return folder


def flac(clip: int, seed: int) -> bytes:
    """About a second of noise that swells, at 16 kHz; longer from clip to clip."""
    rng = np.random.default_rng([seed, clip])
    wave = rng.standard_normal(14_000 + 900 * clip) * 0.1 * np.sin(np.arange(14_000 + 900 * clip) / 1500)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format="FLAC")
    return buffer.getvalue()


def write_shard(path: Path, clips: int, text: str = "hello there", phones: bool = True) -> None:
    """Recordings ``STEM-NUMBER`` as a recipe writes them: their JSON has no id."""
    with tarfile.open(path, "w") as tar:
        for clip in range(clips):
            meta = {"text": text, "family": "one", "voice": "v", **({"phones": ["h", "ə", "l", "O"]} if phones else {})}
            for kind, data in (("flac", flac(clip, clips)), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"{path.stem}-{clip}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _recording(number: int, words: str, seed: int) -> Record:
    part: Part = {"type": "audio", "audio": "flac"}
    turns = [message("user", part), message("assistant", text(words))] if words else [message("document", part)]
    facts: dict[str, object] = {"text": words, "voice": "v", "seconds": 1.0, "sample_rate": 16000}
    if words:
        facts["phones"] = ["h", "ə", "l", "O"]
    return Record(f"19-{number}", turns, (Media("flac", flac(number, seed)),), facts)


def write_set(root: Path, name: str, clips: int, words: str = "", per_shard: int = 4) -> str:
    """A converted set of recordings ``19-NUMBER``, in every set the same; gives the pattern of its shards."""
    seed = sum(name.encode())
    drafts = [Draft(f"19-{at}", partial(_recording, at, words, seed)) for at in range(clips)]
    convert(drafts, root / name, name, config=ConvertConfig(per_shard))
    return str(root / name / f"{name}-train-*.tar")


def small_config(folder: Path, whisper: Path) -> VQTrainConfig:
    """Four labelled recordings and three that are not, in shards of a recipe under ``folder``."""
    write_shard(folder / "said-train-000000.tar", 4)
    write_shard(folder / "heard-train-000000.tar", 3, text="", phones=False)
    run = RunConfig(
        str(folder / "run"), max_steps=4, batch_size=1, eval_every=2, save_every=2, log_every=1, learning_rate=1e-3,
        precision="fp32",
    )  # fmt: skip
    sources = [
        TextSource(str(folder / "said-train-*.tar")),
        TextSource(str(folder / "heard-train-*.tar"), pseudo=True),
    ]
    return VQTrainConfig(
        model=TINY, run=run, whisper=str(whisper), train=sources, labels=str(folder / "labels"),
        validation=[str(folder / "said-train-*.tar")], validation_clips=1, cache=str(folder / "cache"),
        batch_seconds=3.0, perturbed=0.5, restart_below=0.05,
    )  # fmt: skip


def labelled(config: VQTrainConfig) -> VQTrainConfig:
    """``small_config`` with words that a Whisper of random weights would hardly hear."""
    path = Path(config.labels) / "heard-train-000000.json"
    if not path.is_file():  # other processes may be reading it
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({f"heard-train-000000-{clip}": "good day" for clip in range(3)}))
    return config


def started(config: VQTrainConfig, whisper: Whisper, passes: int = 1) -> tuple[VQTraining, dict[str, torch.Tensor]]:
    """A training whose codes lie on vectors, and a batch of all clips; the same at each call."""
    training = build(config, whisper, passes)
    store = TextStore(labelled(config).train, config.cache, config.labels, 16.0)
    make = TextBatches(whisper.text, training.model.inventory, training.model.unit_samples, 0.0)
    batch = TextSet(store, [1.0, 1.0], 1, 30.0, 0, make)[0]
    with torch.no_grad():
        vectors = training.model(batch["samples"], batch["lengths"])
    training.start_codes(vectors.flatten(0, 1), 1.0)
    return training, batch


def rows(batch: dict[str, torch.Tensor], part: int, parts: int) -> dict[str, torch.Tensor]:
    """Every ``parts``-th clip of a batch, filled up as the whole is."""
    return {name: value[part::parts] for name, value in batch.items()}


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Whisper:
    return load_whisper(str(whisper_folder))


@pytest.fixture
def config(tmp_path: Path, whisper_folder: Path) -> VQTrainConfig:
    return small_config(tmp_path, whisper_folder)
