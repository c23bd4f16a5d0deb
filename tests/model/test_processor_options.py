"""The standard keywords of transformers' processors do what they say, and unknown ones are told."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova.model.processor_options import ProcessorOptions
from emova.model.sources import picture, sound

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


def ask(*parts: dict[str, object]) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


SHORT, LONG = ask({"type": "text", "text": "Hi"}), ask({"type": "text", "text": "What is red, and what is not?"})
SEEN = ask({"type": "image", "image": PICTURE}, {"type": "text", "text": "What is this?"})


@pytest.fixture()
def options():
    return {"tokenize": True, "return_dict": True}


def batch_of(processor, options, **given):
    return processor.apply_chat_template([SHORT, LONG], **options, **given)


def test_padding_and_its_side(tiny_processor, options):
    left, right = (batch_of(tiny_processor, options, padding=True, padding_side=side) for side in ("left", "right"))
    short, long = (len(tiny_processor.apply_chat_template(each, tokenize=True)[0]) for each in (SHORT, LONG))
    assert left["attention_mask"].sum(1).tolist() == right["attention_mask"].sum(1).tolist() == [short, long]
    assert left["input_ids"][0, -short:].equal(right["input_ids"][0, :short])
    assert not left["attention_mask"][0, : long - short].any() and not right["attention_mask"][0, short:].any()
    assert batch_of(tiny_processor, options, pad_to_multiple_of=32)["input_ids"].shape[1] % 32 == 0
    assert batch_of(tiny_processor, options, padding="max_length", max_length=99)["input_ids"].shape == (2, 99)
    ragged = batch_of(tiny_processor, options, return_tensors=None)
    assert [len(row) for row in ragged["input_ids"]] == [len(row) for row in ragged["attention_mask"]] == [short, long]
    with pytest.raises(InputError, match="^padding: "):
        batch_of(tiny_processor, options, padding=False)


def test_truncation_never_cuts_a_picture(tiny_processor, options):
    whole = tiny_processor.apply_chat_template(LONG, **options)["input_ids"][0]
    cut = tiny_processor.apply_chat_template(LONG, **options, truncation=True, max_length=5)["input_ids"][0]
    assert cut.equal(whole[:5])
    kept = tiny_processor.apply_chat_template(SEEN, **options, truncation=True, max_length=10)
    assert kept["pixel_values"].shape[0] == 1
    with pytest.raises(InputError, match="picture"):
        tiny_processor.apply_chat_template(SEEN, **options, truncation=True, max_length=4)
    with pytest.raises(InputError, match="^max_length: "):
        tiny_processor.apply_chat_template(LONG, **options, truncation=True)


@pytest.mark.parametrize("kind", [list, np.ndarray, torch.Tensor])
def test_kinds_of_tensors_agree(tiny_processor, options, kind):
    name = {list: None, np.ndarray: "np", torch.Tensor: "pt"}[kind]
    batch = tiny_processor.apply_chat_template([SEEN, SEEN], **options, return_tensors=name)
    assert isinstance(batch["input_ids"], kind) and isinstance(batch["attention_mask"], kind)
    usual = tiny_processor.apply_chat_template([SEEN, SEEN], **options)
    assert np.array_equal(np.asarray(batch["input_ids"]), usual["input_ids"].numpy())


def test_grouped_keywords_are_the_plain_ones(tiny_processor, options):
    plain = batch_of(tiny_processor, options, padding_side="right", pad_to_multiple_of=16)
    for given in (
        {"processor_kwargs": {"padding_side": "right", "pad_to_multiple_of": 16}},
        {"processor_kwargs": {"text_kwargs": {"padding_side": "right", "pad_to_multiple_of": 16}}},
        {"text_kwargs": {"padding_side": "right"}, "pad_to_multiple_of": 16, "padding": "longest"},
    ):
        assert batch_of(tiny_processor, options, **given)["input_ids"].equal(plain["input_ids"])


def test_max_tiles_of_one_call(sliced_processor, options):
    whole = sliced_processor.apply_chat_template(SEEN, **options)
    one = sliced_processor.apply_chat_template(SEEN, **options, processor_kwargs={"images_kwargs": {"max_tiles": 1}})
    assert whole["image_grids"].tolist() != [[1, 1]] and one["image_grids"].tolist() == [[1, 1]]
    assert sliced_processor(images=PICTURE, max_tiles=1)["pixel_values"].equal(one["pixel_values"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"paddin": True}, "paddin"),
        ({"processor_kwargs": {"colour": 1}}, "colour"),
        ({"text_kwargs": {"max_tiles": 1}}, "max_tiles"),
        ({"images_kwargs": {"do_resize": False}}, "do_resize"),
        ({"images_kwargs": 3}, "images_kwargs"),
        ({"padding": "widest"}, "widest"),
        ({"padding": 1}, "padding"),
        ({"padding_side": "top"}, "top"),
        ({"truncation": "middle", "max_length": 4}, "middle"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": True}, "max_length"),
        ({"return_token_type_ids": True}, "return_token_type_ids"),
        ({"padding_side": "left", "text_kwargs": {"padding_side": "right"}}, "twice"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_is_unknown_or_wrong_is_told(tiny_processor, options, given, named):
    with pytest.raises(InputError, match=named) as told:
        batch_of(tiny_processor, options, **given)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("given", [{"paddin": True}, {"text_kwargs": {"colour": 1}}, {"videos": [1]}])
def test_the_call_tells_too(tiny_processor, given):
    with pytest.raises(InputError, match=next(iter(given.get("text_kwargs", given)))):
        tiny_processor(text="Hello", **given)
    with pytest.raises(InputError, match="do_rescale"):
        tiny_processor.image_processor(PICTURE, do_rescale=True)


def test_options_default_to_what_answers_need():
    assert ProcessorOptions.gather({}) == ProcessorOptions(padding=None, padding_side="left", return_tensors="pt")


# --- forms of pictures and sounds -------------------------------------------------------------------------------------
def picture_forms(folder: Path) -> dict[str, dict[str, object]]:
    data, path, pixels = png(PICTURE), folder / "a picture.png", np.asarray(PICTURE)
    path.write_bytes(data)
    address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {
        "path": {"path": str(path)},
        "path as url": {"url": str(path)},
        "Path": {"image": path},
        "file address": {"url": path.as_uri()},
        "data address": {"url": address},
        "data address under image": {"image": address},
        "base64": {"base64": base64.encodebytes(data).decode()},
        "bytes": {"image": data},
        "stream": {"image": io.BytesIO(data)},
        "array": {"image": pixels},
        "array of 0 to 1": {"image": pixels.astype(np.float32) / 255},
        "channels first": {"image": torch.from_numpy(pixels.copy()).permute(2, 0, 1)},
        "tensor with grad": {"image": (torch.tensor(pixels) / 255).requires_grad_()},
        "record of datasets": {"image": {"bytes": data, "path": None}},
        "openai": {"type": "image_url", "image_url": {"url": address}},
    }


@pytest.mark.parametrize("form", [
    "path", "path as url", "Path", "file address", "data address", "data address under image", "base64", "bytes",
    "stream", "array", "array of 0 to 1", "channels first", "tensor with grad", "record of datasets", "openai",
])  # fmt: skip
def test_forms_of_a_picture_are_one(form, tmp_path, tiny_processor, options):
    part = {"type": "image", **picture_forms(tmp_path)[form]}
    given = tiny_processor.apply_chat_template(ask(part), **options)
    wanted = tiny_processor.apply_chat_template(ask({"type": "image", "image": PICTURE}), **options)
    assert given["pixel_values"].equal(wanted["pixel_values"]) and given["input_ids"].equal(wanted["input_ids"])


def test_nested_lists_of_pictures(tiny_processor):
    prompts = [tiny_processor.apply_chat_template(each) for each in (ask({"type": "image"}, {"type": "image"}), SEEN)]
    other = PICTURE.rotate(90)
    nested = tiny_processor(text=prompts, images=[[PICTURE, other], [other]], padding=True)
    flat = tiny_processor(text=prompts, images=[PICTURE, other, other], padding=True)
    assert nested["pixel_values"].equal(flat["pixel_values"]) and nested["input_ids"].equal(flat["input_ids"])
    assert tiny_processor.image_processor([[PICTURE], [other]])["pixel_values"].shape[0] == 2
    with pytest.raises(InputError, match="^images: "):
        tiny_processor(text=prompts, images=[[PICTURE], [other, other]])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("http://127.0.0.1:9/x.png", "cannot be fetched"),
        ("https://no.such.host.invalid/x.png", "cannot be fetched"),
        ("http://", "cannot be fetched"),
        ("data:image/png;base64,@@@", "base64"),
        ("data:image/png", "comma"),
        ("no such.png", "no such file"),
        (np.zeros((5, 5, 5)), "array of shape"),
        (np.zeros((0, 4, 3), np.uint8), "values"),
        (np.full((4, 4, 3), 300), "values"),
        (np.full((4, 4, 3), np.nan), "values"),
        (np.full((4, 4), "a"), "array of shape"),
        (7, "neither a path nor bytes"),
        ({"path": None}, "record"),
    ],
)
def test_pictures_that_cannot_be_read_are_told(source, told):
    with pytest.raises(InputError, match=told) as error:
        picture(source)
    assert "\n" not in str(error.value)


def wav(samples: np.ndarray, rate: int) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format="WAV", subtype="FLOAT")
    return held.getvalue()


def test_forms_of_a_sound_are_one(tmp_path):
    samples = (0.3 * np.sin(np.arange(16_000) / 20)).astype(np.float32)
    path = tmp_path / "a sound.wav"
    path.write_bytes(wav(samples, 16_000))
    address = f"data:audio/wav;base64,{base64.b64encode(path.read_bytes()).decode()}"
    forms = (str(path), path, path.as_uri(), address, path.read_bytes(), samples, torch.tensor(samples)[None],
             samples.tolist(), {"array": samples, "sampling_rate": 16_000}, {"bytes": path.read_bytes(), "path": None},
             torch.tensor(samples).requires_grad_())  # fmt: skip
    for form in forms:
        assert np.allclose(sound(form, 16_000), samples, atol=1e-6)
    whole = (samples * 32767).astype(np.int16)
    for form in (whole, torch.from_numpy(whole)):
        assert np.allclose(sound(form, 16_000), samples, atol=1e-4)
    for slower in (sound(samples, 8_000, 16_000), sound({"array": samples, "sampling_rate": 16_000}, 8_000)):
        assert np.allclose(slower, sound(path, 8_000), atol=1e-5) and len(slower) == 8_000
    nothing: dict[str, object] = {}
    for wrong in (
        np.zeros((2, 3, 4)), np.arange(9_000), "http://127.0.0.1:9/x.wav", "data:audio/wav;base64,!", nothing, 3,
    ):  # fmt: skip
        with pytest.raises(InputError):
            sound(wrong, 16_000)


def test_the_checkpoints_own_tokenizer_hears(tiny_checkpoint, options):
    """From its folder, at any rate, in a message and in a call, as units and as written out."""
    processor = EmovaProcessor.from_pretrained(tiny_checkpoint)
    samples = (0.3 * np.sin(np.arange(32_000) / 20)).astype(np.float32)
    heard = processor.apply_chat_template(ask({"type": "audio", "audio": samples}), **options, sampling_rate=32_000)
    data = {"data": base64.b64encode(wav(samples, 32_000)).decode(), "format": "wav"}
    again = processor.apply_chat_template(ask({"type": "input_audio", "input_audio": data}), **options)
    assert heard["input_ids"].equal(again["input_ids"])
    text = processor.apply_chat_template(ask({"type": "audio", "audio": samples}), sampling_rate=32_000)
    assert processor(text=text)["input_ids"].equal(heard["input_ids"])
    place = processor.apply_chat_template(ask({"type": "audio", "units": []}))
    assert processor(text=place, audio=samples, sampling_rate=32_000)["input_ids"].equal(heard["input_ids"])
    with pytest.raises(InputError, match="sounds"):
        processor(text=place)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": ["hi"]}],
        ask({"type": "text"}),
        ask({"type": "image"}),
        ask({"type": "image", "image": None}),
        ask({"type": "input_audio", "input_audio": "x"}),
        ask({"type": "image_url", "image_url": {}}),
    ],
)
def test_malformed_messages_are_told(tiny_processor, messages):
    with pytest.raises(InputError):
        tiny_processor.render_prompt(messages)


def test_an_answer_without_words_is_empty(tiny_processor):
    empty, none = ([{"role": "assistant", "content": content}] for content in ("", None))
    assert tiny_processor.render_training(empty) == tiny_processor.render_training(none)
