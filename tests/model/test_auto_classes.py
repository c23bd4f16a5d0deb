"""``import emova`` alone makes transformers' Auto classes and pipelines know a checkpoint, in whichever order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import pipeline

import emova
from emova.core.auto_classes import _StandIn
from tests.hearing import understood

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "emova/checkpoints/examples"
PICTURE, QUESTION = EXAMPLES / "photo.png", EXAMPLES / "question.wav"
LOADED = {
    "AutoConfig": "EmovaConfig",
    "AutoProcessor": "EmovaProcessor",
    "AutoImageProcessor": "EmovaImageProcessor",
    "AutoTokenizer": "TokenizersBackend",
    "AutoModel": "EmovaModel",
    "AutoModelForCausalLM": "EmovaForConditionalGeneration",
    "AutoModelForImageTextToText": "EmovaForConditionalGeneration",
    "AutoModelForMultimodalLM": "EmovaForConditionalGeneration",
}


def run(code: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", LOADED)
def test_each_auto_class_is_enough(name: str, tiny_checkpoint: Path) -> None:
    """Each by itself, for what one has loaded may have taught the next."""
    code = (
        "import sys, emova\n"
        "assert not {'torch', 'transformers', 'emova.model'} & set(sys.modules)\n"
        f"from transformers import {name}\n"
        "assert 'emova.model' not in sys.modules\n"
        f"print(type({name}.from_pretrained({str(tiny_checkpoint)!r})).__name__)\n"
    )
    assert run(code).split() == [LOADED[name]]


@pytest.mark.parametrize("before", ["AutoProcessor, AutoModel", "AutoConfig", "pipeline"])
def test_transformers_may_be_imported_first(before: str, tiny_checkpoint: Path) -> None:
    code = (
        "import sys, emova_torch; emova_torch.register()\n"
        f"from transformers import {before}\n"
        "assert 'emova' not in sys.modules; import emova\n"
        "assert 'emova.model' not in sys.modules\n"
        "from transformers import AutoProcessor, AutoModel\n"
        f"folder = {str(tiny_checkpoint)!r}\n"
        "for each in (AutoProcessor, AutoModel): print(type(each.from_pretrained(folder)).__name__)\n"
    )
    assert run(code).split() == ["EmovaProcessor", "EmovaModel"]


def test_a_stand_in_turns_into_the_class() -> None:
    stand_in = _StandIn("EmovaConfig", (), {})
    assert stand_in.from_dict == emova.EmovaConfig.from_dict and isinstance(stand_in(), emova.EmovaConfig)
    assert not getattr(stand_in, "is_dummy", False)


@pytest.mark.parametrize("task", ["any-to-any", "image-text-to-text"])
def test_pipelines_answer(task: Literal["any-to-any", "image-text-to-text"]) -> None:
    """A picture, a spoken and a written question, one by one and as a batch of different lengths."""
    pipe: Any = pipeline(task, model=str(emova.find_checkpoint("emova-nano")), dtype=torch.float32)
    spoken = [{"type": "image", "url": str(PICTURE)}, {"type": "audio", "path": str(QUESTION)}]
    chats = [
        [{"role": "user", "content": spoken}],
        [{"role": "user", "content": [spoken[0], {"type": "text", "text": "How much is the cheese?"}]}],
        [{"role": "user", "content": "Hello"}],
    ]
    options = {"max_new_tokens": 24, "return_full_text": False}
    alone = [pipe(text=chat, **options)[0]["generated_text"] for chat in chats]
    assert understood(alone[0]) and "two dollars" in alone[1] and alone[2]
    together = pipe(text=chats, batch_size=1, padding=True, **options)
    assert [answers[0]["generated_text"] for answers in together] == alone
    prompt = pipe.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How much is the cheese?"}]}],
        add_generation_prompt=True,
    )
    (said,) = pipe(text=prompt, images=str(PICTURE), **options)
    assert said["generated_text"] == alone[1]


def test_a_spoken_question_is_answered_in_the_reply_format() -> None:
    """The system message of the reply format asks for an answer; without it what is said is written down."""
    pipe: Any = pipeline("any-to-any", model=str(emova.find_checkpoint("emova-nano")), dtype=torch.float32)
    system = {"role": "system", "content": pipe.processor.reply_format.system_prompt}
    spoken = [{"type": "image", "path": str(PICTURE)}, {"type": "audio", "path": str(QUESTION)}]
    asked = [system, {"role": "user", "content": spoken}]
    (said,) = pipe(text=asked, return_full_text=False, max_new_tokens=64)
    reply = json.loads(said["generated_text"] + '"}')  # so far: the voice has just begun
    assert understood(reply["user question text"]) and "two dollars" in reply["assistant response text"], reply
