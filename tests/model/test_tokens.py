from __future__ import annotations

import ast
import re

import pytest

from emova.core.errors import InputError
from emova.core.tokens import CONTROL_TOKENS, TokenIds, speech_text, split_speech, split_units, unit_token
from emova.speech.style import DEFAULT_STYLES
from tests.documents import ROOT


def test_ids_are_read_from_the_tokenizer_in_order(tiny_tokenizer):
    ids = TokenIds.from_tokenizer(tiny_tokenizer)
    assert [tiny_tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS] == list(
        range(ids.pad, ids.pad + len(CONTROL_TOKENS))
    )
    assert ids.codebook_size == 4096 and ids.first_unit == ids.speech_end + 1
    assert len(tiny_tokenizer) == 300 + len(CONTROL_TOKENS) + 4096


def test_units_round_trip_and_refuse_strangers(tiny_tokenizer):
    ids = TokenIds.from_tokenizer(tiny_tokenizer)
    units = [0, 4095, 12, 12]
    assert ids.to_units(ids.from_units(units)) == units
    assert ids.from_units([7]) == [tiny_tokenizer.convert_tokens_to_ids(unit_token(7))]
    for bad in (-1, 4096):
        with pytest.raises(InputError, match="codebook"):
            ids.from_units([bad])


def test_trusted_reply_text_splits_at_its_speech():
    text = '{"a": "' + speech_text([3, 4]) + '"} <|speech_5|>'
    assert split_speech(text) == [
        {"type": "text", "text": '{"a": "'},
        {"type": "audio", "units": [3, 4]},
        {"type": "text", "text": '"} <|speech_5|>'},
    ]


def test_records_split_at_their_units():
    assert split_units("a <|speech_7|><|speech_8|> b" + speech_text([9])) == ["a ", [7, 8], " b", [9]]
    assert split_units("<|speech_x|> <|speech_|>") == ["<|speech_x|> <|speech_|>"]


def test_a_plain_tokenizer_is_refused(tiny_tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(InputError, match="lacks"):
        TokenIds.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())))


def constants(path):
    """The strings of a source file that are no docstrings, those inside of f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown:
            yield node.value


def test_control_tokens_and_styles_are_written_down_once():
    """All code takes them from their one place; how each style sounds is the data recipe's own matter."""
    sources = [path for path in ROOT.rglob("*.py") if not {".venv", "tests", "build"} & set(path.parts)]
    assert len(sources) > 200
    token = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, "<|speech_")))
    emotions = [f'"{word}"' for word in DEFAULT_STYLES.emotions[1:]]
    for path in sources:
        place = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if place != "emova/core/tokens.py":
            assert not [each for each in constants(path) if token.search(each)], place
        # A release's own words for styles are its importer's matter.
        if place != "emova/speech/style.py" and not place.startswith(("data_recipes/", "emova/checkpoint/importing/")):
            assert not all(word in text for word in emotions), place


def test_the_chat_template_knows_no_other_tokens():
    for path in sorted((ROOT / "emova").rglob("chat_template.jinja")):
        found = set(re.findall(r"<\|[a-z_]+\|>", path.read_text(encoding="utf-8")))
        assert found and found <= set(CONTROL_TOKENS)
