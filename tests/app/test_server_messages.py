"""Conversations as clients send them: what is harmless is taken, and what is wrong is named, with value and limit."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image

import emova

pytest.importorskip("fastapi")

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
EXAMPLES = Path(emova.__file__).parent / "checkpoints" / "examples"
MODEL = "emova-nano"
KEY = {"Authorization": "Bearer secret-of-tests"}
HELLO = {"role": "user", "content": "Hello."}
FINE = {"role": "assistant", "content": "I am fine."}
PICTURE = (EXAMPLES / "photo.png").read_bytes()
QUESTION = (EXAMPLES / "question.wav").read_bytes()


@pytest.fixture()
def send(running):
    def post(body: bytes | dict, headers: dict[str, str] | None = None) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps({"model": MODEL, "messages": [HELLO], **body}).encode()
        return httpx.post(
            f"{running.url}/chat/completions", content=data, headers={**KEY, **(headers or {})}, timeout=90
        )

    return post


@pytest.fixture()
def ask(send):
    def post(*messages: dict, **fields) -> str:
        answer = send({"messages": list(messages), **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    return post


# --- the handed cases -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "chat_empty_assistant.json",
        "chat_image_url_string.json",
        "chat_surrogate.json",
        "chat_257_messages.json",
        "chat_base64_lines.json",
    ],
)
def test_what_clients_send_is_answered(send, name: str) -> None:
    answer = send((CASES / name).read_bytes(), {"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]


def test_of_chat_120_turns_only_what_fits_is_read(send, nano, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest turns are dropped before they are read: 120 turns cost the model what the last few of them do."""
    read: list[int] = []
    llama = nano.decoder.engine.llama
    forward = llama.forward

    def counted(sequences, *rest, **how):
        read.extend(len(new) for _, new in sequences)
        return forward(sequences, *rest, **how)

    monkeypatch.setattr(llama, "forward", counted)
    body = json.loads((CASES / "chat_120_turns.json").read_text())
    counts = []
    for messages in (body["messages"], body["messages"][-41:]):
        read.clear()
        assert send({**body, "messages": messages}).status_code == 200
        counts.append(sum(read))
    assert len(body["messages"]) > 200 and counts[0] == counts[1] < 2 * nano.trained_context


def test_what_cannot_fit_is_not_even_decoded(ask) -> None:
    """Broken media in turns that are forgotten anyway hold nothing up; in the last turns they are told."""
    broken = {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "no sound", "format": "wav"}}],
    }
    long = {"role": "assistant", "content": "It is red. " * 40}
    assert ask(broken, FINE, *[HELLO, long] * 30, HELLO)


@pytest.mark.parametrize("medium", ["sound", "picture"])
def test_of_sounds_and_pictures_no_more_are_decoded_than_fit(ask, monkeypatch: pytest.MonkeyPatch, medium: str) -> None:
    """Only decoding tells how long a turn is: the newest are decoded first, and the first that has no room is the last
    one."""
    from emova_app.server.api import request_mapping

    decoded = []

    def counted(decode):
        def decode_and_count(*args, **how):
            decoded.append(1)
            return decode(*args, **how)

        return decode_and_count

    for name in ("load_audio", "load_image"):
        monkeypatch.setattr(request_mapping, name, counted(getattr(request_mapping, name)))
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    part = {
        "sound": {"type": "input_audio", "input_audio": {"data": base64.b64encode(QUESTION).decode(), "format": "wav"}},
        "picture": {"type": "image_url", "image_url": {"url": url}},
    }[medium]
    asked = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    counts = []
    for turns in (10, 40):
        decoded.clear()
        assert ask(*[asked, FINE] * turns, asked)
        counts.append(len(decoded))
    assert counts[0] == counts[1]
    # Of several pictures emova-nano keeps none apart: earlier ones make way for the one that is asked about.
    assert counts[0] == 1 if medium == "picture" else 3 <= counts[0] <= 9


def test_the_newest_picture_stays_for_what_is_asked_next(ask, nano, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that keeps pictures apart gets all of them; with one, the last that was shown."""
    from emova_app.server.api import request_mapping

    seen = []
    decode = request_mapping.load_image

    def noted(data, limits):
        seen.append(data)
        return decode(data, limits)

    monkeypatch.setattr(request_mapping, "load_image", noted)
    urls = []
    for colour in ("red", "blue"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    shown = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}],
        }
        for url in urls
    ]
    assert ask(shown[0], FINE, shown[1], FINE, HELLO)
    assert [base64.b64decode(urls[1].partition(",")[2])] == seen
    seen.clear()
    monkeypatch.setattr(nano.parts.model.config, "trained_pictures", 0)
    assert ask(shown[0], FINE, shown[1], FINE, HELLO)
    assert len(seen) == 2


# --- answers of every kind --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "empty",
    [{"content": ""}, {"content": None}, {}, {"content": []}, {"content": " \n"}, {"content": None, "tool_calls": []}],
    ids=str,
)
def test_an_empty_answer_is_passed_over(ask, empty: dict) -> None:
    nothing = {"role": "assistant", **empty}
    wanted = ask(HELLO, FINE, HELLO)
    assert ask(nothing, HELLO, FINE, HELLO) == wanted
    assert ask(HELLO, FINE, HELLO, nothing) == wanted
    assert ask(HELLO, nothing, nothing, FINE, HELLO) == wanted
    assert ask({"role": "user", "content": "Hel"}, nothing, {"role": "user", "content": "lo."})


def test_a_picture_of_an_unanswered_question_gives_way(send) -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    shown = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}],
    }
    nothing = {"role": "assistant", "content": ""}
    assert send({"messages": [shown, nothing, shown]}).status_code == 200
    twice = send({"messages": [shown, shown]})
    assert twice.status_code == 400 and twice.json()["error"]["param"] == "messages[1].content[0].image_url"


def test_answers_first_or_in_a_row_are_taken(ask, nano) -> None:
    welcome = {"role": "assistant", "content": "Welcome!"}
    assert ask(welcome, HELLO) and ask(welcome, welcome, HELLO, FINE, HELLO)
    assert ask({"role": "user", "content": ""}, welcome, HELLO) == ask(welcome, HELLO)
    two = {"role": "assistant", "content": "I am fine."}, {"role": "assistant", "content": "And you?"}
    assert ask(HELLO, *two, HELLO) == ask(HELLO, {"role": "assistant", "content": "I am fine. And you?"}, HELLO)
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert ask(HELLO, refused, HELLO)


# --- base64 -----------------------------------------------------------------------------------------------------------
def lines(text: str, by: int = 76, end: str = "\n") -> str:
    return end.join(text[start : start + by] for start in range(0, len(text), by)) + end


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: lines(text),
        lambda text: lines(text, 64, "\r\n"),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: " " + text + "\t",
        lambda text: "data:application/octet-stream;base64," + lines(text),
    ],
    ids=["plain", "lines", "crlf", "unpadded", "urlsafe", "spaces", "data-url"],
)
def test_base64_in_every_dress_is_the_same(ask, written) -> None:
    def question(sound: str, picture: str, bare: bool) -> dict:
        heard = sound if bare else {"data": sound, "format": "wav"}
        shown = picture if bare else {"url": picture}
        parts = [{"type": "image_url", "image_url": shown}, {"type": "input_audio", "input_audio": heard}]
        return {"role": "user", "content": parts}

    head = "data:image/png;base64,"
    sound, picture = (base64.b64encode(data + b"\0").decode() for data in (QUESTION, PICTURE))
    dressed = written(picture)
    shown = dressed if dressed.startswith("data:") else head + dressed
    wanted = ask(question(sound, head + picture, bare=False))
    assert ask(question(written(sound), shown, bare=False)) == wanted == ask(question(written(sound), shown, bare=True))


def test_base64_is_read_or_refused() -> None:
    from emova.core.errors import InputError
    from emova_app.server.api.media import from_base64

    for length in range(1, 9):
        data = bytes(range(250, 250 - length, -1))
        text = base64.b64encode(data).decode()
        assert {
            from_base64(each, "x") for each in (text, text.rstrip("="), base64.urlsafe_b64encode(data).decode())
        } == {data}
    for wrong in ("", "=", "a", "ab=cd", "ab%3D", "data:,abcd", "data:image/png,abcd", "ü", "data:image/png;base64,"):
        with pytest.raises(InputError, match="^x: "):
            from_base64(wrong, "x")


def test_broken_lines_leave_the_limit_of_a_text_to_texts(send, running) -> None:
    """Base64 with line breaks is no text: it may be larger than the rest of the JSON may."""
    sound = lines(base64.b64encode(bytes(2 << 20)).decode())
    parts = [{"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}]
    answer = send({"messages": [{"role": "user", "content": parts}]})
    assert len(sound) > running.service.config.max_json_bytes
    assert answer.status_code == 400 and "messages[0].content[0].input_audio.data" in answer.text  # it is no WAV


# --- what is wrong is named -------------------------------------------------------------------------------------------
def said(*parts: object) -> dict:
    return {"messages": [HELLO, FINE, {"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"stop": ["x"]}, "stop", "leave it out"),
        ({"n": 2}, "n", "2"),
        ({"logprobs": True}, "logprobs", "true"),
        ({"top_p": 1.5}, "top_p", "1.5 is too large; at most 1"),
        ({"top_p": -0.5}, "top_p", "-0.5 is too small; at least 0"),
        ({"top_p": "1"}, "top_p", '"1" is not a number'),
        ({"temperature": 3}, "temperature", "3 is too large; at most 2"),
        ({"max_tokens": -1}, "max_tokens", "-1 is too small; at least 1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "0 is too small; at least 1"),
        ({"max_tokens": 1.5}, "max_tokens", "1.5 is not a whole number"),
        ({"seed": True}, "seed", "true is not a whole number"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "json_object"),
        ({"modalities": ["video"]}, "modalities[0]", "'text' or 'audio'"),
        ({"audio": {"format": "exe"}}, "audio.format", "\"exe\" is not one of 'wav'"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"model": None}, "model", "null is not a string"),
        ({"messages": []}, "messages", "0 given; at least 1"),
        ({"messages": [HELLO] * 4097}, "messages", "4097 given; at most 4096"),
        (said(*[{"type": "text", "text": "What?"}] * 251), "messages[2].content", "251 given; at most 64"),
        ({"messages": "Hi"}, "messages", '"Hi" is not a list'),
        ({"messages": [HELLO, {"content": "x"}]}, "messages[1].role", "missing"),
        ({"messages": [HELLO, {"role": "bot", "content": "x"}]}, "messages[1].role", "\"bot\" is not one of 'system'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "3 is not a string or a list"),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, "messages[0].content", "100001 characters"),
        ({"messages": [{"role": "user", "content": "x" * 2001}]}, "messages[0]", "2000 characters"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "no question"),
        ({"messages": [HELLO, FINE]}, "messages[1]", "end with a question"),
        ({"messages": [HELLO, {**FINE, "emotion": "mad"}, HELLO]}, "messages[1].emotion", "choose one of neutral"),
        (
            {"messages": [HELLO, {"role": "assistant", "audio": {"id": "a"}}, HELLO]},
            "messages[1].audio.id",
            "unknown or expired",
        ),
        (said("Hi"), "messages[2].content[0]", '"Hi" is not an object'),
        (said({"text": "Hi"}), "messages[2].content[0].type", "missing"),
        (said({"type": "video"}), "messages[2].content[0].type", "\"video\" is not one of 'text', 'image_url'"),
        (said({"type": "text", "text": None}), "messages[2].content[0].text", "null is not a string"),
        (said({"type": "text"}), "messages[2].content[0].text", "missing"),
        (said({"type": "image_url"}), "messages[2].content[0].image_url", "missing"),
        (said({"type": "image_url", "image_url": {}}), "messages[2].content[0].image_url.url", "missing"),
        (said({"type": "image_url", "image_url": 3}), "messages[2].content[0].image_url", "3 is not"),
        (
            said(
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}},
            ),
            "messages[2].content[1].image_url.url",
            "not valid base64",
        ),
        (
            said({"type": "text", "text": "What?"}, {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}),
            "messages[2].content[1].image_url",
            "not a picture",
        ),
        (
            said(
                {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "https://example.org/a"}}
            ),
            "messages[2].content[1].image_url.url",
            "not on this server's list",
        ),
        (
            said({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
            "messages[2].content[0].input_audio.data",
            "not audio",
        ),
        (said({"type": "input_audio", "input_audio": {}}), "messages[2].content[0].input_audio.data", "missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_part_the_value_and_the_limit_are_named(send, body: dict, param: str, told: str) -> None:
    answer = send(body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and error["message"].startswith(f"{param}: ") and told in error["message"]
    assert len(error["message"]) < 400 and "\n" not in error["message"]


@pytest.mark.parametrize(
    "wish", [{"stop": []}, {"stop": None}, {"stop": ""}, {"n": 1}, {"top_p": 0}, {"functions": []}]
)
def test_wishes_for_nothing_are_granted(send, wish: dict) -> None:
    assert send(wish).json()["choices"] == send({}).json()["choices"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (None, 200),
        ("", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/x-www-form-urlencoded", 400),
        ("text/plain;charset=UTF-8", 400),
        ("multipart/form-data; boundary=x", 400),
    ],
)
def test_the_content_type_may_be_left_out(send, kind: str | None, status: int) -> None:
    answer = send({}, {} if kind is None else {"Content-Type": kind})
    assert answer.status_code == status
    if status == 400:
        message = answer.json()["error"]["message"]
        assert (kind or "").partition(";")[0] in message and "application/json" in message


def test_values_of_clients_are_repeated_only_if_they_are_plain(send) -> None:
    for value in ("../../etc/passwd", "<script>", "x" * 50, "a b", "\u202e", "http://x/y"):
        answer = send({"messages": [{"role": value, "content": "x"}], "audio": {"format": value}})
        assert answer.status_code == 400 and value not in answer.json()["error"]["message"]
