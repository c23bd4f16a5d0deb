"""What is measured beyond the recipe by people and artists: their records are whole, and no training reads them."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from emova_data.nano.pictures.library import CATALOGUE, STAMPS
from emova_data.nano.pictures.programs import things
from emova_data.nano.speech import people

needs_stamps = pytest.mark.skipif(not STAMPS.is_dir(), reason="Debian's tuxpaint-stamps-default is not installed")
needs_clipart = pytest.mark.skipif(not things.CLIPART.is_dir(), reason="Debian's openclipart-svg is not installed")


@pytest.mark.parametrize(
    ("names", "answer", "right"),
    [
        (["pear"], "This is a pear.", True),
        (["pear"], "These are pears!", True),
        (["pear"], "This is a pearl.", False),
        (["bus", "autobus"], "Two buses.", True),
        (["acoustic guitar", "guitar"], "a guitar, I think", True),
        (["cat"], "I am not sure.", False),
    ],
)
def test_a_thing_is_named_by_whole_words(names: list[str], answer: str, right: bool) -> None:
    assert things.named(names, answer) == right


@needs_stamps
def test_no_photograph_is_one_of_the_recipes() -> None:
    known = {stamp for _, stamps in CATALOGUE.values() for stamp in stamps.split()}
    found = list(things.photographs())
    assert len(found) > 50
    assert not known & {thing.path.relative_to(STAMPS).as_posix() for thing in found}


@needs_clipart
@pytest.mark.skipif(shutil.which("rsvg-convert") is None, reason="librsvg2-bin is not installed")
def test_things_are_written_with_their_names(tmp_path: Path) -> None:
    made = things.make(tmp_path, 8, 0)
    with tarfile.open(next(tmp_path.glob("*.tar"))) as tar:
        records = [json.loads(tar.extractfile(member).read()) for member in tar if member.name.endswith(".json")]  # type: ignore[union-attr]
    assert made == len(records) >= 4
    assert all(record["name"] in record["names"] for record in records)
    assert len({record["name"] for record in records}) == made


def test_a_thing_of_two_words_is_named_by_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        things, "senses", lambda: {"acoustic guitar": (6, ("acoustic guitar",)), "truth": (10, ("truth",))}
    )
    assert things.right_names("acoustic guitar") == ("acoustic guitar", "guitar")
    assert things.right_names("truth") is None


def test_recordings_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=people.PACKAGE):
        list(people.read_aloud(tmp_path))
    with pytest.raises(ValueError, match="tuxpaint"):
        list(people.captions(tmp_path / "none"))


@needs_stamps
def test_every_caption_has_its_words_and_sound() -> None:
    clips = list(people.captions())
    assert len(clips) > 40
    assert all(clip.path.is_file() and clip.text for clip in clips)
