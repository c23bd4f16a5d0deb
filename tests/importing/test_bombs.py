"""Releases that are small as files and would be anything but small once they are read: told in one line, at once."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from emova.checkpoint.importing.source import Tensors, read_yaml, section
from emova.core.errors import InputError
from tests.app.test_server_connections import Peak

pytestmark = pytest.mark.timeout(60)


def zipped(path: Path, program: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    """A file in the newer of torch's two formats."""
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    return path


LONG = b"\x80\x02](" + b"K\x01" * 20_000_000 + b"e."


def compressed(path: Path) -> Path:
    return zipped(path, bytes(1 << 30), zipfile.ZIP_DEFLATED)


def compressed_storage(path: Path) -> Path:
    torch.save({"a": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def long_program(path: Path) -> Path:
    return zipped(path, LONG)


def long_old_program(path: Path) -> Path:
    path.write_bytes(LONG)
    return path


def long_behind_the_magic_number(path: Path) -> Path:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path.write_bytes(magic + LONG)
    return path


def huge_string(path: Path) -> Path:
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.")
    return path


@pytest.mark.parametrize(
    "make", [compressed, compressed_storage, long_program, long_old_program, long_behind_the_magic_number, huge_string]
)
def test_a_pickle_that_grows_is_not_loaded(tmp_path: Path, make) -> None:
    path = make(tmp_path / "pytorch_model.bin")
    with Peak() as peak, pytest.raises(InputError, match="damaged"):
        Tensors.of(tmp_path)
    assert peak.grown < 100 and path.is_file()


@pytest.mark.parametrize("new", [True, False])
def test_a_table_of_many_tensors_is_loaded(tmp_path: Path, new: bool) -> None:
    state = {f"layer.{number}.weight": torch.full((2,), float(number)) for number in range(3000)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    found = Tensors.of(tmp_path)
    assert len(found) == 3000 and torch.equal(found["layer.7.weight"], torch.tensor([7.0, 7.0]))


def merges() -> str:
    levels = (f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}" for level in range(1, 12))
    return "\n".join(["a0: &a0 {x: 1}", *levels])


def nested_mappings() -> str:
    inner = (f"a{level}: &a{level} {{b: *a{level - 1}, c: *a{level - 1}, d: *a{level - 1}}}" for level in range(1, 60))
    return "\n".join(["a0: &a0 {x: 1}", *inner])


def test_yaml_whose_merges_grow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(merges())
    with Peak() as peak, pytest.raises(InputError, match="damaged"):
        read_yaml(tmp_path / "config.yaml")
    assert peak.grown < 100


@pytest.mark.parametrize("text", [nested_mappings(), "flow: &a\n  x: *a\n"], ids=["doubled", "in itself"])
def test_a_section_is_looked_for_once_in_each_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert section(read_yaml(tmp_path / "config.yaml"), "encoder") == {}


def test_merges_and_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: &b {rate: 1}\nflow:\n  encoder: {<<: *b, size: 2}\n")
    assert section(read_yaml(tmp_path / "config.yaml"), "encoder") == {"rate": 1, "size": 2}
