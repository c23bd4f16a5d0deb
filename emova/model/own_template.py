"""A language model's own chat template as a ``Frame``, and a frame as a template.

A template is run on a short conversation whose contents are known words; what stands between these words is what the
template puts there. Templates are Jinja, which transformers runs in its sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.core.tokens import (
    END_OF_TURN,
    FRAME,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    SPEECH_END,
    SPEECH_START,
    token_names,
    unit_token,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _USER, _ANSWER, _AGAIN = "Zsystemz", "Zquestionz", "Zanswerz", "Zanotherz"
_TURNS = (("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN))
_UNFIT = "its chat template cannot be followed"


def frame_of(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[dict[str, str], str]:
    """What a tokenizer's own template puts around turns, and the token that ends an answer.

    A template without system messages gets their text in front of the first question, an empty line between them.

    Args:
        name: how errors call the model.

    Raises:
        InputError: the template fails, leaves out or changes what is said, or has no control tokens where an answer
            begins and ends.
    """
    plain = _between(_run(tokenizer, _TURNS, name), (_USER, _ANSWER, _AGAIN), name)
    first, asks, between, last = plain
    try:
        told = _between(_run(tokenizer, (("system", _SYSTEM), *_TURNS), name), (_SYSTEM, _USER, _ANSWER, _AGAIN), name)[
            :2
        ]
    except InputError:
        told = [first, "\n\n"]
    start, join = told
    special = _special(tokenizer)
    found = [(between.find(token), -len(token), token) for token in special if token in between]
    if not found:
        raise InputError(f"{name}: {_UNFIT}: no control token ends an answer; give another model")
    _, _, end = min(found)
    behind = between.partition(end)[2]
    user = _from_token(_common_end(join, behind, first), special)
    # Where a template writes a line's end that it does not ask with, it belongs to what asks: models write none.
    assistant = asks if asks.startswith(last) and not asks[len(last) :].strip("\n") else last
    if not any(token in assistant for token in special):
        raise InputError(
            f"{name}: its chat template marks turns by plain text, which users can type; give another model"
        )
    user_end = end if assistant.startswith(end) else ""
    begin = _begin(tokenizer, start, [token for token in special if token not in join + asks + between + last])
    return {
        "begin": begin,
        "system": start.removeprefix(begin),
        "user": user,
        "assistant": assistant.removeprefix(user_end),
        "heard": SPEECH_START,
        "heard_end": SPEECH_END,
        "shown": IMAGE_START,
        "shown_end": IMAGE_END,
        "system_end": join.removesuffix(user),
        "user_end": user_end,
        "assistant_end": behind.removesuffix(user),
        "begin_user": first.removesuffix(user),
    }, end


def _run(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], name: str) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        # Of models that think aloud the plain answers are wanted; other templates pass the word over.
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:  # a template may raise anything
        raise InputError(
            f"{name}: {_UNFIT}: {str(error).splitlines()[0][:120] if str(error) else 'it fails'}"
        ) from None
    assert isinstance(text, str)
    return text


def _between(text: str, words: Sequence[str], name: str) -> list[str]:
    """What stands before, between and behind ``words``. Raises: InputError: one is missing, or out of its place."""
    parts, rest = [], text
    for word in words:
        part, found, rest = rest.partition(word)
        if not found or word in rest:
            raise InputError(f"{name}: {_UNFIT}: it leaves out or repeats what is said; give another model")
        parts.append(part)
    return [*parts, rest]


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The added tokens that are more than white space."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return sorted(token for token in {*added, *tokenizer.all_special_tokens} if token.strip())


def _common_end(*texts: str) -> str:
    return commonprefix([text[::-1] for text in texts])[::-1]


def _from_token(end: str, special: Sequence[str]) -> str:
    """``end`` without the rest of a control token that it may begin with."""
    for token in special:
        for cut in range(1, len(token)):
            if end.startswith(token[cut:]) and len(token) - cut > 1 and not end.startswith(token):
                return end[len(token) - cut :]
    return end


def _begin(tokenizer: PreTrainedTokenizerBase, start: str, special: Sequence[str]) -> str:
    """The control tokens before all roles: those that the tokenizer itself puts before a text, or its first one."""
    own = {*tokenizer.convert_ids_to_tokens(tokenizer.encode("")), tokenizer.bos_token}
    begin = ""
    while True:
        rest = start.removeprefix(begin)
        token = next((each for each in special if each in own and rest.startswith(each)), None)
        if token is None:
            return begin
        begin += token


def frame_template(stated: Mapping[str, str], tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja template that writes down what ``Frame`` puts around turns; pictures and units as their tokens."""
    end = token_names(tokenizer)[END_OF_TURN]
    part = {name: json.dumps(stated.get(name, usual), ensure_ascii=False) for name, usual in {
        "begin": "", "system": "", "user": "", "assistant": "", "heard": "", "heard_end": "", "shown": "",
        "shown_end": "", "system_end": end, "user_end": end, "assistant_end": "",
        "begin_user": stated.get("begin", ""),
    }.items()}  # fmt: skip
    unit = unit_token(0).split("0")
    lines = (
        "{%- if messages and messages[0]['role'] == 'system' -%}{{- " + part["begin"] + " -}}",
        "{%- else -%}{{- " + part["begin_user"] + " -}}{%- endif -%}",
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'system' -%}{{- " + part["system"] + " -}}",
        "{%- elif message['role'] == 'user' -%}{{- " + part["user"] + " -}}",
        "{%- elif message['role'] == 'assistant' -%}{{- " + part["assistant"] + " -}}",
        "{%- else -%}{{- raise_exception('unknown role: ' + message['role']) -}}{%- endif -%}",
        "{%- if message['content'] is string -%}{{- message['content'] -}}",
        "{%- else -%}{%- for part in message['content'] -%}",
        "{%- if part['type'] == 'text' -%}{{- part['text'] -}}",
        "{%- elif part['type'] == 'image' -%}{{- " + json.dumps(IMAGE) + " -}}",
        "{%- elif part['type'] == 'audio' -%}{{- " + part["heard"] + " -}}",
        "{%- for unit in part['units'] -%}{{- '" + unit[0] + "' ~ unit ~ '" + unit[1] + "' -}}{%- endfor -%}",
        "{{- " + part["heard_end"] + " -}}",
        "{%- else -%}{{- raise_exception('unknown content type: ' + part['type']) -}}{%- endif -%}",
        "{%- endfor -%}{%- endif -%}",
        "{%- if message['role'] == 'system' -%}{{- " + part["system_end"] + " -}}",
        "{%- elif message['role'] == 'user' -%}{{- " + part["user_end"] + " -}}",
        "{%- else -%}{{- " + json.dumps(end) + " + " + part["assistant_end"] + " -}}{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{- " + part["assistant"] + " -}}{%- endif -%}",
    )
    return "\n".join(lines)


def stated_frame(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, str] | None:
    """What the tokenizer's configuration says of its frame; None where it has ours."""
    stated = getattr(tokenizer, "init_kwargs", {}).get(FRAME)
    return stated if isinstance(stated, dict) else None
