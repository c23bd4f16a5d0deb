"""The recipe's pictures by other programs: same contents and questions, regions on what is drawn, others for tests."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from emova_data.nano.pictures.programs import held_out, html_pages, matplotlib_figures, pillow_plain
from emova_data.nano.pictures.programs.content import KINDS, LARGEST, draw_content
from emova_data.nano.pictures.programs.make import TEST, TRAIN, make, make_one
from emova_data.nano.pictures.programs.photographed import photographed
from emova_data.nano.pictures.questions import correct
from emova_train.data.recipe import read_pictures

PROGRAMS = {"matplotlib": matplotlib_figures.draw, "pillow": pillow_plain.draw}


def drawn(program, kind, seed):
    rng = np.random.default_rng(seed)
    content = draw_content(kind, rng)
    return content, PROGRAMS[program](content, rng)


def cases():
    return [(program, kind) for program in PROGRAMS for kind in TRAIN[program]]


@pytest.mark.parametrize(("program", "kind"), cases())
def test_regions_lie_in_the_picture_and_on_something(program, kind):
    for seed in range(6):
        content, picture = drawn(program, kind, seed)
        width, height = picture.image.size
        assert max(width, height) <= LARGEST
        assert {region.text for region in picture.regions} == {text for row in content.said for text in row}
        grey = np.asarray(picture.image.convert("L"), np.float32)
        for region in picture.regions:
            left, top, right, bottom = (round(value) for value in region.box)
            assert -3 <= left < right <= width + 3
            assert -3 <= top < bottom <= height + 3
            inside = grey[max(top, 0) : bottom, max(left, 0) : right]
            assert np.ptp(inside) > 40, (region, "nothing is drawn there")


@pytest.mark.parametrize(("program", "kind"), cases())
def test_a_picture_follows_from_its_seed(program, kind):
    one, other = (drawn(program, kind, 3)[1] for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert one.regions == other.regions


def test_programs_say_the_same_of_the_same_content():
    content = draw_content("charts", np.random.default_rng(1))
    told = [draw(content, np.random.default_rng(2)) for draw in PROGRAMS.values()]
    assert told[0].caption == told[1].caption
    assert told[0].asks == told[1].asks


def test_the_tests_programs_draw_nothing_for_the_training():
    assert not set(TRAIN) & set(TEST)
    assert {kind for kinds in TEST.values() for kind in kinds} == set(KINDS)


def test_a_photograph_moves_its_regions_with_what_they_mark():
    content, picture = drawn("pillow", "signs", 1)
    moved = 0
    for seed in range(5):
        seen = photographed(picture, np.random.default_rng(seed))
        assert seen.image.size == picture.image.size
        plate = next(region for region in seen.regions if region.text.endswith("sign"))
        x, y = (plate.box[0] + plate.box[2]) / 2, plate.box[1] + 0.12 * (plate.box[3] - plate.box[1])
        before = next(region for region in picture.regions if region.text.endswith("sign"))
        bx, by = (before.box[0] + before.box[2]) / 2, before.box[1] + 0.12 * (before.box[3] - before.box[1])
        new, old = (np.asarray(each.image.getpixel((int(u), int(w))), float) for each, u, w in
                    ((seen, x, y), (picture, bx, by)))  # fmt: skip
        assert np.abs(new - old).mean() < 90
        moved += plate.box != before.box
    assert moved == 5


def test_shards_are_read_by_the_stages_and_answers_are_right(tmp_path, monkeypatch):
    from emova_data.nano.pictures.programs import make as module

    programs = {"matplotlib": matplotlib_figures.draw, "pillow": pillow_plain.draw, "html": pillow_plain.draw}
    monkeypatch.setattr(module, "drawers", lambda split: (programs, lambda: None))
    folder = tmp_path / "pictures"
    assert make(folder, 0, 20, "train") == 20
    assert make(folder, 0, 20, "train") == 0
    pictures = read_pictures(tmp_path, "train")
    assert len(pictures) == 20
    assert {picture.kind for picture in pictures} == set(KINDS)
    for picture in pictures:
        assert picture.load().mode == "RGB"
        assert picture.exchanges
        assert picture.regions


def test_every_question_is_judged_right_by_its_own_answer():
    for kind in KINDS:
        _, record = make_one(kind, 0, 1, "train", {**PROGRAMS, "html": pillow_plain.draw})
        questions = record["questions"]
        assert isinstance(questions, list) and questions
        for question in questions:
            assert correct({**question, "kind": kind}, question["answer"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_browsers_regions_are_its_own():
    browser = html_pages.Browser()
    try:
        for number, kind in enumerate(html_pages.KINDS):
            rng = np.random.default_rng(number)
            picture = browser.draw(draw_content(kind, rng), rng)
            grey = np.asarray(picture.image.convert("L"), np.float32)
            for region in picture.regions:
                left, top, right, bottom = (max(0, round(value)) for value in region.box)
                assert np.ptp(grey[top:bottom, left:right]) > 40
    finally:
        browser.close()


@pytest.mark.parametrize("kind", KINDS)
def test_svg_holds_every_word(kind):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        content = draw_content(kind, rng)
        text = held_out.svg(content, rng)
        rows = content.rows if kind != "signs" else [(content.rows[0][1],)]
        for row in rows:
            for written in row:
                for word in written.split(" "):
                    assert f">{word}<" in text or word in text
