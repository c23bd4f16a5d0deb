"""Styles: names there and back, fallbacks, and the prototypes' file."""

from __future__ import annotations

import pytest
import torch

from emova.core.errors import InputError
from emova.speech.style import DEFAULT_STYLES, Style, StylePrototypes


def test_there_are_24_styles_with_names_there_and_back() -> None:
    assert len({style.key for style in DEFAULT_STYLES.all}) == 24
    assert Style("female", "happy", "high").key == "gender-female_emotion-happy_pitch-high"
    assert all(DEFAULT_STYLES.from_key(style.key) == style for style in DEFAULT_STYLES.all)


def test_words_of_users() -> None:
    assert DEFAULT_STYLES.parse(" Male ", "SAD", "low") == Style("male", "sad", "low")
    for wrong in ({"voice": "robot"}, {"emotion": "joyful\n" * 50}, {"pitch": ""}, {"voice": "male;female"}):
        with pytest.raises(InputError, match="choose one of") as raised:
            DEFAULT_STYLES.parse(**wrong)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("emotion", "pitch", "expected"),
    [
        ("happy", "low", (Style("male", "happy", "low"), True)),
        ("Happy ", "LOW", (Style("male", "happy", "low"), True)),
        ("joyful", "low", (Style("male", "neutral", "low"), False)),
        ("sad", "", (Style("male", "sad", "normal"), False)),
        (None, None, (Style("male", "neutral", "normal"), False)),
    ],
)
def test_words_of_the_model_fall_back(emotion, pitch, expected) -> None:
    assert DEFAULT_STYLES.from_model("male", emotion, pitch) == expected


def test_prototypes_save_and_load_bit_equal(tmp_path) -> None:
    vectors = {style.key: torch.randn(6) for style in DEFAULT_STYLES.all}
    StylePrototypes(vectors).save(tmp_path)
    loaded = StylePrototypes.load(tmp_path)
    assert loaded.size == 6
    assert all(torch.equal(loaded[style], vectors[style.key]) for style in DEFAULT_STYLES.all)
    assert [path.name for path in tmp_path.iterdir()] == ["style_prototypes.safetensors"]


def test_prototypes_that_lack_a_style_or_are_damaged(tmp_path) -> None:
    vectors = {style.key: torch.randn(6) for style in DEFAULT_STYLES.all[1:]}
    with pytest.raises(InputError, match="missing"):
        StylePrototypes(vectors)
    with pytest.raises(InputError, match="differ"):
        StylePrototypes({**vectors, DEFAULT_STYLES.all[0].key: torch.randn(5)})
    with pytest.raises(InputError, match="missing"):
        StylePrototypes.load(tmp_path)
    (tmp_path / "style_prototypes.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="damaged"):
        StylePrototypes.load(tmp_path)
