"""Configs, sets and records by the names of earlier versions are read as those of today."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova_train.core import renamed
from emova_train.data.recipe import read_recipe
from emova_train.stages.config import StageConfig
from emova_train.stages.tasks import ConversationConfig, Conversations
from emova_train.u2s.config import U2SRecipe
from emova_train.vision.program import VisionTrainConfig, _rename_weights
from tests.train.fixtures_recipe import write_recipe

OLD = """
heard_text: {weight: 0.5, layer: 3}
seen_words: {weight: 0.25, heads: 1}
weights: {frame: 0.2, units: 0.4}
data:
  heard: [question, question_rough]
  said: [answer, said]
  mixture: {told_talk: 0.2, told_picture: 0.1, thoughts_talk: 0.3, thoughts_picture: 0.1, asr: 0.3}
  conversations:
    misheard: 0.15
    thoughts: {text_share: 0.33, speech_share: 0.67, ratio: {units: 20}}
"""
NEW = """
losses: {ctc: {weight: 0.5, layer: 3}, grounding: {weight: 0.25, heads: 1}}
weights: {skeleton: 0.2, units: 0.4}
data:
  asr: [question, question_rough]
  tts: [answer, said]
  mixture:
    {asr: 0.3, teacher_forced_talk: 0.2, teacher_forced_picture: 0.1, interleaved_talk: 0.3, interleaved_picture: 0.1}
  conversations:
    transcript_noise: 0.15
    interleaved: {text_share: 0.33, speech_share: 0.67, ratio: {units: 20}}
"""


def test_an_old_stages_config_is_todays(tmp_path: Path) -> None:
    for name, text in (("old", OLD), ("new", NEW)):
        (tmp_path / f"{name}.yaml").write_text(text)
    old, new = (load_config(StageConfig, tmp_path / f"{name}.yaml") for name in ("old", "new"))
    assert old == new and old.losses.ctc.layer == 3 and old.data.conversations.interleaved.ratio.units == 20
    # Old overrides on a new file, and a new file on an old base.
    changed = load_config(StageConfig, tmp_path / "new.yaml", ["heard_text.weight=0", "data.mixture.told_talk=0"])
    assert changed.losses.ctc.weight == 0 and changed.losses.ctc.layer == 3
    assert changed.data.mixture["teacher_forced_talk"] == 0 and "told_talk" not in changed.data.mixture
    (tmp_path / "on.yaml").write_text("base: old.yaml\nlosses: {ctc: {weight: 1.0}}\n")
    assert load_config(StageConfig, tmp_path / "on.yaml").losses.ctc.weight == 1.0
    save_config(old, tmp_path / "saved.yaml")
    assert load_config(StageConfig, tmp_path / "saved.yaml") == old


def test_every_key_of_the_table_is_a_field_of_today() -> None:
    for cls, keys in ((StageConfig, renamed.STAGE_KEYS), (U2SRecipe, renamed.U2S_KEYS),
                      (VisionTrainConfig, renamed.VISION_KEYS)):  # fmt: skip
        for old, new in keys.items():
            if ".mixture." in new:
                continue
            value = load_config(cls)
            for name in new.split("."):
                value = getattr(value, name)
            with pytest.raises(AttributeError):
                gone = load_config(cls)
                for name in old.split("."):
                    gone = getattr(gone, name)
    assert load_config(U2SRecipe, None, ["data.rough=true"]).data.augmented
    assert load_config(VisionTrainConfig, None, ["mark_weight=3"]).region_weight == 3


def test_tasks_are_found_by_their_old_names(tmp_path: Path, tiny_processor) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "nano"), "train")
    conversations = Conversations(recipe, tiny_processor, ConversationConfig())
    for old, new in renamed.TASKS.items():
        assert conversations.task(old) is conversations.task(new)
    chosen = conversations.chosen({"told_talk": 1.0, "asr": 1.0})
    assert [task.name for task, _ in chosen] == ["teacher_forced_talk", "asr"]


@pytest.mark.parametrize(("wanted", "there"), [
    ("question_rough", "question_augmented"), ("question_augmented", "question_rough"), ("said", "tts"),
    ("tts", "said"), ("said_rough", "tts_augmented"), ("tts_augmented", "said_rough"), ("changed", "voice_conversion"),
    ("question", "question"),
])  # fmt: skip
def test_a_set_is_found_by_the_name_that_its_file_has(tmp_path: Path, wanted: str, there: str) -> None:
    root = write_recipe(tmp_path / "nano")
    (root / "units" / "question.jsonl").rename(root / "units" / f"{there}.jsonl")
    found = read_recipe(root, "train", questions=[wanted], asr=[wanted])
    assert len(found.asr) == 12
    (tmp_path / "speech").mkdir()
    shard = tmp_path / "speech" / f"{there}-train-000000.tar"
    shard.touch()
    assert renamed.find_shards(f"{tmp_path}/speech/{wanted}-train-*.tar") == [str(shard)]


def test_a_set_that_is_missing_is_named_as_today(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other_augmented.jsonl: missing; run `emova train units --set other`"):
        read_recipe(write_recipe(tmp_path / "nano"), "train", asr=["other_rough"])


def test_a_records_regions_may_be_called_marks(tmp_path: Path) -> None:
    pictures = read_recipe(write_recipe(tmp_path / "old", regions="marks"), "train").pictures
    today = read_recipe(write_recipe(tmp_path / "new", regions="regions"), "train").pictures
    assert any(each.regions for each in pictures)
    assert [each.regions for each in pictures] == [each.regions for each in today]


def test_weights_of_an_old_vision_run_have_todays_names() -> None:
    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_regions, self.patch_regions = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
            self.register_load_state_dict_pre_hook(_rename_weights)

    trained, loaded = Heads(), Heads()
    old = {name.replace("regions", "marks"): value for name, value in trained.state_dict().items()}
    assert not loaded.load_state_dict(old).missing_keys
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in trained.state_dict().items())


def test_names_of_today_are_left_as_they_are() -> None:
    for name in ("question", "question_kokoro", "s2u", "a_rough_night"):
        assert renamed.set_names(name)[0] == name == renamed.task(name)
    assert not set(renamed.TASKS) & set(renamed.TASKS.values())
    for name in ("tts", "said_rough"):
        assert len(renamed.set_names(name)) == len(set(renamed.set_names(name)))
