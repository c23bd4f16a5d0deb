"""TRL's trainer takes a checkpoint, its processor and conversations about pictures as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import emova
from emova.model import EmovaModel

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'emova[dev]'")
datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'emova[dev]'")

FOLDER = emova.find_checkpoint("emova-nano")


def conversation(colour: str, question: str) -> dict[str, Any]:
    asked, answered = {"role": "user", "content": question}, {"role": "assistant", "content": f"It is {colour}."}
    return {"images": [Image.new("RGB", (60, 40), colour)], "messages": [asked, answered]}


def test_two_steps_and_back(tmp_path: Path) -> None:
    """The loss counts what the collator says, every part learns, and the saved folder is a checkpoint again."""
    from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

    rows = [conversation("red", "What colour is it?"), conversation("blue", "And now, what colour is this one here?")]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "runs"), max_steps=2, per_device_train_batch_size=2, max_length=None, report_to=[],
        use_cpu=True, bf16=False, learning_rate=1e-3, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model=str(FOLDER), args=arguments, train_dataset=datasets.Dataset.from_list(rows))
    model = trainer.model
    assert type(model) is emova.EmovaForConditionalGeneration
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    for part in ("model.vision_tower.", "model.projector.", "model.language_model."):
        moved = [name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])]
        assert any(name.startswith(part) for name in moved), part
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert type(AutoModel.from_pretrained(tmp_path / "saved")) is EmovaModel
    batch = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": rows[0]["images"][0]}]}],
        tokenize=True, return_dict=True, add_generation_prompt=True,
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)
