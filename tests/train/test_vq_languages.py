"""Each source of the supervised tokenizer in its own language: the prompt of Whisper's decoder in training, measuring
and labelling, and what a run that goes on with another is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova.speech.tokenizer.whisper_vq.reader import ReadsWords, WordDecoder
from emova_train.core.config import RunConfig
from emova_train.data.clip_reader import StreamConfig
from emova_train.s2u.data import unwrap
from emova_train.vq.data import TextBatches, TextSet, TextSource, TextStore, streamed
from emova_train.vq.labels import label
from emova_train.vq.program import VQTrainConfig, train
from emova_train.vq.whisper import Whisper, load_whisper
from tests.train.fixtures_vq import labelled, small_config, write_set, write_whisper


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"), many=True)


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Whisper:
    return load_whisper(str(whisper_folder))


@pytest.fixture
def config(tmp_path: Path, whisper_folder: Path) -> VQTrainConfig:
    """The labelled source is English, which is the config's language, the other one Mandarin."""
    config = labelled(small_config(tmp_path, whisper_folder))
    return replace(config, train=[config.train[0], replace(config.train[1], language="zh")])


@pytest.fixture
def read_with(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that Whisper's decoder has read texts with, in order."""
    found: list[list[int]] = []

    def read(
        self: WordDecoder, heard: torch.Tensor, inside: torch.Tensor, prompt: Sequence[int], end: int,
        limits: Sequence[int],
    ) -> list[list[int]]:  # fmt: skip
        found.append(list(prompt))
        return [[] for _ in limits]

    monkeypatch.setattr(WordDecoder, "read", read)
    return found


def names(whisper: Whisper, prompt: Sequence[int]) -> list[str]:
    return [str(whisper.text._tokenizer.id_to_token(token)) for token in prompt]


def test_a_prompt_names_the_language_where_the_model_knows_several(whisper: Whisper, tmp_path: Path) -> None:
    text = whisper.text
    assert names(whisper, text.prompt_in("zh")) == [
        "<|startoftranscript|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>"
    ]  # fmt: skip
    assert names(whisper, text.prompt)[1] == "<|en|>" and text.prompt_in() == text.prompt == text.prompt_in("en")
    with pytest.raises(InputError, match=r"lack <\|xy\|>"):
        text.prompt_in("xy")
    english = load_whisper(str(write_whisper(tmp_path))).text
    assert english.prompt_in("zh") == english.prompt and len(english.prompt) == 2


def test_each_clip_learns_under_the_prompt_of_its_language(
    config: VQTrainConfig, whisper: Whisper, tmp_path: Path
) -> None:
    make = TextBatches(whisper.text, DEFAULT_PHONES, 1280, 0.0)
    store = TextStore(config.train, config.cache, config.labels, 16.0)
    batch = TextSet(store, [1.0, 1.0], 1, 30.0, 0, make)[0]

    def languages(batch: dict[str, torch.Tensor]) -> set[tuple[str, str]]:
        rows = zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True)
        return {
            (names(whisper, tokens[:4])[1], whisper.text.decode(t for t in targets if t >= 0))
            for tokens, targets in rows
        }

    wanted = {("<|en|>", "hello there"), ("<|zh|>", "good day")}
    assert languages(batch) == wanted
    sources = [
        TextSource(write_set(tmp_path / "sets", "english", 4, "hello there")),
        TextSource(write_set(tmp_path / "sets", "chinese", 4, "good day"), language="zh"),
    ]
    made = streamed(sources, "", 0.0, make, 3.0, 16.0, StreamConfig(enabled=True, pool=8, block=4))
    batches = made.batches(unwrap, RunConfig(str(tmp_path / "run"), max_steps=6, batch_size=1))
    assert set().union(*(languages(dict(each)) for each in batches)) == wanted


def test_labels_are_heard_in_the_language_of_their_source(
    config: VQTrainConfig, whisper: Whisper, read_with: list[list[int]], tmp_path: Path
) -> None:
    sources = [
        TextSource(write_set(tmp_path / "sets", "english", 4), pseudo=True),
        TextSource(write_set(tmp_path / "sets", "chinese", 4), pseudo=True, language="zh"),
    ]
    label(replace(config, train=sources))
    assert read_with == [whisper.text.prompt, whisper.text.prompt_in("zh")]
    wrong = replace(config, train=[*sources, TextSource(config.train[0].pattern, pseudo=True, language="xy")])
    with pytest.raises(InputError, match=r"<\|xy\|>"):
        label(wrong)


def test_what_was_learnt_is_measured_in_its_language_and_a_change_is_told(
    config: VQTrainConfig, whisper: Whisper, read_with: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    (pattern,) = config.validation
    run = replace(config.run, max_steps=2)
    train(replace(config, run=run, validation_languages={pattern: "zh"}))
    assert read_with and all(prompt == whisper.text.prompt_in("zh") for prompt in read_with)
    reader = ReadsWords.from_tokenizer(Path(run.output_dir) / "export")
    assert reader is not None and reader._reader.config.prompts == {
        "en": whisper.text.prompt, "zh": whisper.text.prompt_in("zh")
    }  # fmt: skip
    read_with.clear()
    capsys.readouterr()
    # The same by another name: nothing changed.
    named = [replace(source, language=source.language or "en") for source in config.train]
    train(replace(config, run=replace(run, max_steps=3), train=named))
    assert read_with and all(prompt == whisper.text.prompt for prompt in read_with)
    assert "other conditions" not in capsys.readouterr().err
    english = [replace(source, language="") for source in config.train]
    train(replace(config, run=replace(run, max_steps=4), train=english, decay=0.9))
    lines = capsys.readouterr().err.splitlines()
    at = next(number for number, line in enumerate(lines) if "goes on under other conditions than it began" in line)
    assert "'language': 'zh'" in lines[at + 1].partition("->")[0] and "'zh'" not in lines[at + 1].partition("->")[2]
    assert lines[at + 2].strip() == "decay: 0.99 -> 0.9"


def test_a_language_that_is_not_known_is_refused_at_once(config: VQTrainConfig) -> None:
    wrong = replace(config, train=[replace(config.train[0], language="xy")])
    with pytest.raises(InputError, match=r"<\|xy\|>"):
        train(wrong)
    assert not Path(config.run.output_dir).exists()
    with pytest.raises(InputError, match="validation_languages: nothing-\\*.tar is no pattern of validation"):
        replace(config, validation_languages={"nothing-*.tar": "zh"})


def test_the_papers_mandarin_is_mandarin() -> None:
    shipped = load_config(VQTrainConfig, "paper", kind="vq")
    spoken = {source.pattern.split("/")[-2]: source.language or shipped.language for source in shipped.train}
    assert spoken == {"librispeech": "en", "aishell-1": "zh", "libritts": "en"}
