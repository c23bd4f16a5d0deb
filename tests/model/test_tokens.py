from __future__ import annotations

import pytest

from emova.core.errors import InputError
from emova.core.tokens import CONTROL_TOKENS, TokenIds, speech_text, split_speech, unit_token


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


def test_a_plain_tokenizer_is_refused(tiny_tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(InputError, match="lacks"):
        TokenIds.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())))
