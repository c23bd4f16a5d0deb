"""A checkpoint from its parts: it loads, keeps the model card, and is refused when a part is missing or too large."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emova.checkpoint.loading import load_parts
from emova.core.errors import InputError
from emova_train.export.assemble import AssembleConfig, assemble, main


@pytest.fixture()
def parts(tiny_checkpoint: Path, tmp_path: Path) -> AssembleConfig:
    """The tiny checkpoint taken apart again."""
    folder = tmp_path / "runs"
    shutil.copytree(tiny_checkpoint, folder / "model")
    for name in ("speech_tokenizer", "speech_detokenizer"):
        (folder / "model" / name).rename(folder / name)
    prototypes = "style_prototypes.safetensors"
    (folder / "model" / prototypes).rename(folder / "speech_detokenizer" / prototypes)
    return AssembleConfig(
        folder / "model", folder / "speech_tokenizer", folder / "speech_detokenizer", tmp_path / "emova-tiny"
    )


def test_the_parts_make_a_checkpoint(parts: AssembleConfig, tiny_checkpoint: Path) -> None:
    sizes = assemble(parts)
    assert {"model.safetensors", "tokenizer.json", "speech_tokenizer", "speech_detokenizer"} <= sizes.keys()
    whole, tiny = load_parts(parts.out), load_parts(tiny_checkpoint)
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(whole.model.state_dict()[name], tensor.half().float())
    assert not list(parts.out.parent.glob(".emova-tiny*"))


def test_the_language_model_in_int8_rows(parts: AssembleConfig) -> None:
    plain = assemble(parts)["model.safetensors"]
    exact = load_parts(parts.out).model.state_dict()
    narrow = replace(parts, model_storage="int8")
    small = assemble(narrow)["model.safetensors"]
    assert small < 0.8 * plain
    rough = load_parts(parts.out).model.state_dict()
    assert exact.keys() == rough.keys()
    for name, tensor in exact.items():
        if name.startswith(("model.language_model.", "lm_head.")) and tensor.dim() > 1:
            step = tensor.abs().amax(dim=1, keepdim=True) / 127
            assert ((rough[name] - tensor).abs() <= 0.51 * step + 1e-6).all() and not torch.equal(rough[name], tensor)
        else:
            assert torch.equal(rough[name], tensor), name
    # Assembled again from what was assembled: the same bytes.
    written = (parts.out / "model.safetensors").read_bytes()
    assemble(replace(narrow, model=parts.out, out=parts.out.with_name("again")))
    assert (parts.out.with_name("again") / "model.safetensors").read_bytes() == written


def test_another_language_model_for_reading_model(parts: AssembleConfig, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts.model, other)
    both = replace(parts, reading_model=other)
    assert assemble(both)["reading_aloud.safetensors"] > 0
    found = load_parts(parts.out)
    assert found.reading_model is not None
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match="another text tokenizer"):
        assemble(both)
    with pytest.raises(InputError, match="config.json: missing"):
        assemble(replace(parts, reading_model=tmp_path))


def test_a_written_model_card_stays(parts: AssembleConfig) -> None:
    assemble(parts)
    assert "## Figures" in (parts.out / "README.md").read_text()
    (parts.out / "README.md").write_text("written by hand")
    assemble(parts)
    assert (parts.out / "README.md").read_text() == "written by hand"


def test_a_failed_assembly_leaves_the_old_one(parts: AssembleConfig, capsys, monkeypatch) -> None:
    assemble(parts)
    before = sorted(path.name for path in parts.out.iterdir())
    with pytest.raises(InputError, match="more than 0.01"):
        assemble(replace(parts, max_mib=0.01))
    (parts.speech_detokenizer / "style_prototypes.safetensors").unlink()
    with pytest.raises(InputError, match="no style prototypes"):
        assemble(parts)
    (parts.model / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer.json: missing"):
        assemble(parts)
    assert sorted(path.name for path in parts.out.iterdir()) == before
    load_parts(parts.out)
    monkeypatch.setattr("sys.argv", ["assemble", "--model", "nowhere"])
    assert main() == 2 and "nowhere" in capsys.readouterr().err


def test_the_phone_decoder_may_stay_behind(parts: AssembleConfig) -> None:
    large = assemble(parts)["speech_tokenizer"]
    assert assemble(replace(parts, phone_decoder=False))["speech_tokenizer"] < large
    load_parts(parts.out)
