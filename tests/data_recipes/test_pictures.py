"""Laws of the drawn pictures: determinism, held-out phrasings, keys that follow from the facts, judged answers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from emova.core.errors import InputError
from emova_data.nano.pictures import (
    KINDS,
    all_answers,
    all_questions,
    canvas,
    correct,
    make,
    make_picture,
    write_texts,
)
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.library import Cutout
from emova_data.nano.pictures.make import PictureSample
from emova_data.nano.pictures.questions import TYPES, phrasings
from emova_data.nano.pictures.regions import Region, opaque_box


@pytest.fixture(scope="module")
def library() -> dict[str, list[Cutout]]:
    """Stands in for the fetched sources: every name has two seen blobs and one that only the test uses."""
    made = {}
    for i, name in enumerate(v.OBJECTS):
        cutouts = []
        for k in range(3):
            image = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
            ImageDraw.Draw(image).ellipse((2, 2, 78, 58), fill=(4 * i, 90, 80 * k, 255))
            cutouts.append(Cutout(name, f"set{k}/{name}", image, k == 2))
        made[name] = cutouts
    return made


@pytest.fixture(scope="module")
def samples(library: dict[str, list[Cutout]]) -> list[PictureSample]:
    return [make_picture(k, 5, i, split, library) for k in KINDS for i in range(8) for split in make.SPLITS]


def test_every_kind_draws_224_rgb_and_has_a_caption(samples: list[PictureSample]) -> None:
    for sample in samples:
        assert sample.drawn.image.size == (224, 224) and sample.drawn.image.mode == "RGB"
        assert sample.drawn.caption.endswith(".") and not any(c.isdigit() for c in sample.drawn.caption)
        assert 2 <= len(sample.questions) <= 6
        assert len({q.question for q in sample.questions}) == len(sample.questions)


def test_same_arguments_same_picture(library: dict[str, list[Cutout]]) -> None:
    for kind in KINDS:
        first, again = (make_picture(kind, 3, 7, "train", library) for _ in range(2))
        other = make_picture(kind, 4, 7, "train", library)
        assert first.record == again.record
        assert np.array_equal(np.asarray(first.drawn.image), np.asarray(again.drawn.image))
        assert not np.array_equal(np.asarray(first.drawn.image), np.asarray(other.drawn.image))


def test_every_picture_says_what_is_where(samples: list[PictureSample]) -> None:
    for sample in samples:
        regions = json.loads(json.dumps(sample.record["regions"]))
        assert regions
        for region in regions:
            left, top, right, bottom = region["box"]
            assert region["text"] and 0 <= left < right <= 1 and 0 <= top < bottom <= 1, (sample.key, region)
        # What is named is marked: all of a picture's facts that stand somewhere in it.
        facts: dict[str, Any] = dict(sample.drawn.facts)
        named = {region["text"]: region["box"] for region in regions}
        said = {word for region in named for word in region.split()}
        for name in ("word", "event", "colour", "day", "venue", "product", "feeling", "weather", "name"):
            assert name not in facts or set(facts[name].split()) <= said, (sample.key, name)
        assert {f"{s['colour']} {s['shape']}" for s in facts.get("shapes", ())} <= named.keys()
        for label, number in {**facts.get("bars", {}), **facts.get("scores", {})}.items():
            assert {label, v.NUMBERS[number]} <= named.keys()
            assert named[label] == named[v.NUMBERS[number]]  # each place of a bar or a row tells of both
        assert "cents" not in facts or v.price_words(facts["cents"]) in named


def test_boxes_follow_what_is_drawn_when_it_is_tilted() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sheet = canvas.layer()
        box = (60.0, 130.0, 100.0, 150.0)
        ImageDraw.Draw(sheet).rectangle([2 * value for value in box], fill=(255, 0, 0, 255))
        tilted, (region,) = canvas.tilt(rng, sheet, [Region("red", box)], 6.0, (0.8, 1.1), 8.0)
        assert np.allclose(region.box, opaque_box(tilted), atol=2)


def test_no_held_out_phrasing_in_training() -> None:
    splits: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, seen in splits.items():
        for kind, spec in TYPES.items():
            for slot in spec.slots:
                made = phrasings(kind, slot, split)
                assert made, (kind, slot, split)
                seen.update(made)
    assert not splits["train"] & splits["test"]
    for kind, spec in TYPES.items():
        assert len(spec.phrasings) >= 6 and spec.held_out in (1, 2), kind


def test_asked_and_answered_texts_are_among_the_listed(samples: list[PictureSample]) -> None:
    listed, told = dict(all_questions()), set(all_answers())
    for sample in samples:
        split = str(sample.record["split"])
        for q in sample.questions:
            assert listed[q.question] == split
            assert q.answer in told
            assert (q.emotion, q.pitch) in {
                (e, p) for e in ("neutral", "happy", "sad", "angry") for p in ("normal", "low", "high")
            }


def test_texts_can_be_spoken(tmp_path: Path) -> None:
    asked, answered = write_texts(tmp_path)
    assert asked <= 1600 and answered <= 2500
    rows = [json.loads(line) for line in (tmp_path / "picture_questions.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "test"} and len({row["id"] for row in rows}) == asked
    rows += [json.loads(line) for line in (tmp_path / "picture_answers.jsonl").read_text().splitlines()]
    for row in rows:
        assert len(row["text"].split()) <= 14 and not any(c.isdigit() for c in row["text"])


def test_answers_are_judged_right_and_others_wrong() -> None:
    for kind, spec in TYPES.items():
        for key, sentence in spec.answers.items():
            question = {"type": kind, "key": key.split("|")[0]}
            assert correct(question, sentence), (kind, key)
            assert correct(question, sentence.upper().rstrip("."))
            assert not correct(question, "")
            for other, text in spec.answers.items():
                if other.split("|")[0] != question["key"]:
                    assert not correct(question, text), (kind, key, other)


def test_judge_takes_other_wordings_and_digits() -> None:
    assert correct({"type": "price", "key": "three dollars"}, "That is 3 dollars!")
    assert not correct({"type": "price", "key": "three dollars"}, "It costs three dollars and fifty cents.")
    assert correct({"type": "name", "key": "cat"}, "I see a cat.")
    assert not correct({"type": "name", "key": "cat"}, "A cat or a dog.")
    assert correct({"type": "does_it_say", "key": "yes"}, "Yes, it says no entry.")


def _expected(facts: dict, kind: str, asked: str) -> str | None:
    """The key worked out again from the facts and the question's words, or None where another test does it."""
    words = asked.lower().rstrip("?.").split()
    number = {"count": lambda: len(facts["shapes"]), "bars": lambda: len(facts["bars"]),
              "names": lambda: len(facts["scores"])}  # fmt: skip
    if kind in number:
        return v.NUMBERS[number[kind]()]
    if kind == "count_shape":
        return v.NUMBERS[sum(s["shape"] + "s" in words for s in facts["shapes"])]
    if kind == "colour":
        return next(s["colour"] for s in facts["shapes"] if s["shape"] in words)
    if kind == "shape":
        return next(s["shape"] for s in facts["shapes"] if s["colour"] in words)
    if kind == "where":
        return next(s["place"] for s in facts["shapes"] if s["shape"] in words and s["colour"] in words)
    if kind == "at_place":
        return next(f"{s['colour']} {s['shape']}" for s in facts["shapes"] if s["place"] in " ".join(words))
    if kind in ("left_of", "right_of"):
        assert facts["shapes"][1]["shape"] in words
        beside = facts["shapes"][0 if kind == "left_of" else 2]
        return f"{beside['colour']} {beside['shape']}"
    if kind == "is_there":
        return "yes" if any(s["shape"] in words or s["colour"] in words for s in facts["shapes"]) else "no"
    if kind in ("highest", "lowest"):
        return (max if kind == "highest" else min)(facts["bars"], key=facts["bars"].get)
    if kind == "value":
        return v.NUMBERS[next(n for word, n in facts["bars"].items() if word.lower() in words)]
    if kind == "compare":
        first, second = sorted(
            (w for w in facts["bars"] if w.lower() in words), key=lambda w: words.index(w.lower())
        )  # fmt: skip
        return "yes" if facts["bars"][first] > facts["bars"][second] else "no"
    if kind in ("most", "fewest"):
        return (max if kind == "most" else min)(facts["scores"], key=facts["scores"].get)
    if kind == "score":
        return v.NUMBERS[next(n for name, n in facts["scores"].items() if name.lower() in words)]
    if kind in ("price", "price_of"):
        return v.price_words(facts["cents"])
    if kind == "more_than":
        return "yes" if facts["cents"] > (500 if "five" in words else 1000) else "no"
    plain = {"says": "word", "sign_colour": "colour", "product": "product", "name": "name", "event": "event",
             "day": "day", "venue": "venue", "feeling": "feeling", "weather": "weather"}  # fmt: skip
    if kind in plain:
        return facts[plain[kind]]
    said = {"is_it": "name", "does_it_say": "word", "is_day": "day", "is_feeling": "feeling", "is_weather": "weather"}
    if kind in said:
        return "yes" if f" {facts[said[kind]].lower()} " in f" {' '.join(words)} " else "no"
    return None


def test_keys_follow_from_the_facts(samples: list[PictureSample]) -> None:
    checked = set()
    for sample in samples:
        for q in sample.questions:
            want = _expected(dict(sample.drawn.facts), q.type, q.question)
            if want is None:
                assert q.type == "kind" and q.key == v.KIND_NAMES[str(sample.record["kind"])]
                continue
            assert q.key == want, (q, sample.drawn.facts)
            checked.add(q.type)
    assert len(checked) >= 28


def test_reordered_captions_list_the_same_in_another_order(samples: list[PictureSample]) -> None:
    for sample in samples:
        caption, reordered = sample.drawn.caption, sample.record["reordered"]
        assert isinstance(reordered, list) and bool(reordered) == (sample.record["kind"] in ("charts", "tables"))
        for other in reordered:
            assert other != caption and len(other) == len(caption)
            assert all(part in other for part in sample.drawn.listed)


def test_training_never_shows_a_held_out_source(library: dict[str, list[Cutout]]) -> None:
    train = [make_picture("objects", 1, i, "train", library) for i in range(24)]
    test = [make_picture("objects", 1, i, "test", library) for i in range(24)]
    assert not any(s.drawn.facts["unseen_source"] for s in train)
    assert any(s.drawn.facts["unseen_source"] for s in test)
    assert not all(s.drawn.facts["unseen_source"] for s in test)


def test_shards_do_not_depend_on_processes_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: dict[str, list[Cutout]]
) -> None:
    monkeypatch.setattr(make, "PER_SHARD", 3)
    monkeypatch.setattr(make, "load_library", lambda sources: library)
    silent: dict[str, Any] = {"report": lambda made: None}
    shares = make.make_pictures(tmp_path / "a", 9, 40, "train", jobs=2, **silent)
    make.make_pictures(tmp_path / "b", 9, 40, "train", jobs=1, **silent)
    names = sorted(p.name for p in (tmp_path / "a").glob("*.tar"))
    assert sum(shares.values()) == 40 and names == sorted(p.name for p in (tmp_path / "b").glob("*.tar"))
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (tmp_path / "b" / names[0]).unlink()
    made: list[int] = []
    make.make_pictures(tmp_path / "b", 9, 40, "train", jobs=1, report=made.append)
    assert len(made) == 1 and (tmp_path / "a" / names[0]).read_bytes() == (tmp_path / "b" / names[0]).read_bytes()
    with tarfile.open(tmp_path / "a" / names[0]) as tar:
        members = tar.getnames()
        picture, record = (tar.extractfile(m) for m in members[:2])
        assert picture is not None and record is not None
        assert Image.open(io.BytesIO(picture.read())).size == (224, 224)
        content = json.loads(record.read())
    assert members[0].removesuffix(".png") == members[1].removesuffix(".json")
    assert set(content) == {"kind", "caption", "reordered", "questions", "facts", "regions", "split"}
    assert set(content["questions"][0]) == {"question", "answer", "emotion", "pitch", "type", "key"}


def test_shards_of_an_older_format_are_made_again(tmp_path: Path) -> None:
    shares = make.plan(40, "train")
    work = make._missing(tmp_path, 9, shares, "train")
    for path, *_ in work:
        Path(path).touch()
    assert make._missing(tmp_path, 9, shares, "train") == []
    marker = tmp_path / ".train.json"
    stamp = json.loads(marker.read_text())
    del stamp["format"]
    marker.write_text(json.dumps(stamp))
    assert make._missing(tmp_path, 9, shares, "train") == work and not list(tmp_path.glob("*.tar"))


def test_unknown_split_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train or test"):
        make.make_pictures(tmp_path, 0, 10, "valid")
