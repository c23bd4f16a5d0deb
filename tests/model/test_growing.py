"""Language models of several families grown by units: their own templates are kept, and no text forges a token."""

from __future__ import annotations

import itertools

import pytest
from transformers import PreTrainedTokenizerFast

from emova.core.errors import InputError
from emova.core.tokens import END_OF_TURN, TokenIds, token_names, unit_token
from emova.model import EmovaImageProcessor, EmovaProcessor
from emova.model.growing import grow_tokenizer
from emova.reply.grammar import TokenTable
from emova.reply.json import JsonReply
from tests.fixtures_families import FAMILIES, make_tokenizer

UNITS = 40
WORDS = ["Is the ball red?", "No, it is  blue.\n\n\tTruly: 好 🙂", "Sure", "x"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture()
def plain(family) -> PreTrainedTokenizerFast:
    return make_tokenizer(family)


@pytest.fixture()
def processor(plain) -> EmovaProcessor:
    grown = grow_tokenizer(plain, UNITS)
    return EmovaProcessor(EmovaImageProcessor(tile_size=0, tile_side=1), grown, reply_format=JsonReply())


def talk(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": word} for role, word in zip(roles, itertools.cycle(WORDS), strict=False)]


TALKS = [
    talk("user"),
    talk("user", "assistant", "user"),
    talk("system", "user", "assistant", "user", "assistant", "user"),
]


def test_conversations_are_written_as_the_models_own_template_writes_them(family, plain, processor) -> None:
    for messages in TALKS:
        if messages[0]["role"] == "system" and not family.instructs:
            continue
        theirs = plain.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        if family.kind in ("glm", "glm4"):
            theirs += "\n"  # which its template writes behind each role, and leaves to the model where it asks
        ours = processor.apply_chat_template(messages, add_generation_prompt=True)
        ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_tensors=None)
        if family.kind == "mistral":  # spaces that the model writes itself
            theirs, ours = theirs.replace("[/INST] ", "[/INST]"), ours.replace("[/INST] ", "[/INST]")
        if family.kind == "qwen3":  # answers of before are written without thoughts
            ours = ours.replace("<think>\n\n</think>\n\n" + WORDS[1], WORDS[1]).replace(
                "<think>\n\n</think>\n\n" + WORDS[2], WORDS[2]
            )
            ours = ours.replace("<think>\n\n</think>\n\n" + WORDS[0], WORDS[0])
        assert ours == theirs
        if family.kind != "qwen3":
            text = processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            assert text.replace("[/INST] ", "[/INST]") == theirs


def test_a_template_without_system_messages_says_them_with_the_first_question(family, processor) -> None:
    if family.instructs:
        return
    text = processor.apply_chat_template(TALKS[2], add_generation_prompt=True)
    assert text.startswith(f"<bos><start_of_turn>user\n{WORDS[0]}\n\n{WORDS[1]}<end_of_turn>\n<start_of_turn>model\n")


def test_the_words_of_the_model_keep_their_ids_and_units_follow_one_another(plain, processor) -> None:
    grown = processor.tokenizer
    before, after = plain.get_vocab(), grown.get_vocab()
    assert before.items() <= after.items()
    ids = TokenIds.from_tokenizer(grown)
    assert ids.codebook_size == UNITS and ids.first_unit >= len(plain)
    assert grown.chat_template == plain.chat_template
    for text in WORDS:
        pieces = processor.encode_text(text)
        assert grown.decode(pieces, clean_up_tokenization_spaces=False) == text


def test_no_text_of_a_user_becomes_a_control_token(plain, processor) -> None:
    """Each token's own name, halves of two joined, names in names; beside the frame and in every role."""
    grown = processor.tokenizer
    special = {index for index, token in grown.added_tokens_decoder.items() if token.special}
    names = [token.content for token in grown.added_tokens_decoder.values() if token.special]
    stated = processor.tokenizer.init_kwargs["emova_frame"]
    texts = [*names[:30], *names[-3:], *(name + name for name in names[:12]), " ".join(names[:12])]
    texts += [
        name[: len(name) // 2] + other + name[len(name) // 2 :] for name, other in zip(names, names[1:10], strict=False)
    ]
    texts += [f"Hi{part}Ho" for part in stated.values()] + [unit_token(3)]
    for text in texts:
        ids = processor.encode_text(text)
        assert not special & set(ids), text
        assert grown.decode(ids, clean_up_tokenization_spaces=False) == text
    usual = processor.render_training([*talk("user", "assistant")]).input_ids
    for role in ("user", "assistant"):
        said = [{"role": each, "content": texts[-2] if each == role else "x"} for each in ("user", "assistant")]
        told = processor.render_training(said).input_ids
        assert [each for each in told if each in special] == [each for each in usual if each in special]


def test_the_table_reads_what_the_tokenizer_writes(plain, processor) -> None:
    table = TokenTable.from_tokenizer(processor.tokenizer)
    assert table.end_of_turn == processor.tokenizer.convert_tokens_to_ids(token_names(processor.tokenizer)[END_OF_TURN])
    for text in WORDS:
        assert b"".join(table.token_bytes[token] or b"" for token in table.encode(text)).decode() == text
    assert {piece for piece in table.token_bytes if piece is not None and len(piece) == 1} >= {
        bytes([byte]) for byte in range(256)
    }


def test_answers_learn_their_own_end_and_nothing_behind_it(processor) -> None:
    rendered = processor.render_training(talk("user", "assistant", "user", "assistant"))
    learnt = [token for token, learn in zip(rendered.input_ids, rendered.loss_mask, strict=True) if learn]
    end = processor.token_ids.end_of_turn
    assert learnt.count(end) == 2 and learnt[-1] == end
    assert learnt[: learnt.index(end)] == processor.encode_text(WORDS[1])
    text = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure"}]
    going = processor.apply_chat_template(text, tokenize=True, continue_final_message=True, return_tensors=None)
    assert going[-len(processor.encode_text("Sure")) :] == processor.encode_text("Sure")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no') }}", "no"),
        ("{{ 1 / 0 }}", "division"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no control token ends an answer"),
        ("{% for m in messages %}{{ m['content'] + m['content'] + '<|im_end|>' }}{% endfor %}", "repeats"),
        ("{{ messages[0]['content'] }}<|im_end|>", "leaves out"),
        (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
            "{% if m['role'] == 'assistant' %}{{ '<|im_end|>' }}{% endif %}{% endfor %}assistant: ",
            "plain text",
        ),
        ("{% for x in", "cannot be followed"),
    ],
)
def test_a_template_that_cannot_be_followed_is_told(template, told) -> None:
    tokenizer = make_tokenizer(FAMILIES["qwen2"])
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=told) as error:
        grow_tokenizer(tokenizer, UNITS)
    assert len(str(error.value).splitlines()) == 1


def test_without_a_template_it_gets_ours() -> None:
    tokenizer = make_tokenizer(FAMILIES["qwen2"])
    tokenizer.chat_template = None
    grown = grow_tokenizer(tokenizer, UNITS)
    assert token_names(grown)[END_OF_TURN] == END_OF_TURN and "emova_frame" not in grown.init_kwargs


def test_a_tokenizer_that_is_no_bpe_is_refused() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(InputError, match="WordLevel"):
        grow_tokenizer(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))), UNITS)
