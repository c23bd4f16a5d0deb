"""Shards: samples are grouped by key, bytes are found again, a cut file is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova.core.tar_samples import read_shard


def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_members_of_one_key_make_a_sample(tmp_path: Path) -> None:
    shard = write(
        tmp_path / "a.tar", [("x/1.png", b"p"), ("x/1.json", b"{}"), ("x/2.seg.png", b"qq"), ("x/2.png", b"")]
    )
    samples = list(read_shard(shard))
    assert [key for key, _ in samples] == ["x/1", "x/2"]
    assert samples[0][1]["json"].read() == b"{}" and samples[1][1]["seg.png"].read() == b"qq"
    assert samples[1][1]["png"].read() == b""


@pytest.mark.parametrize("keep", [0, 100, 700, 1500, 1536, 2048, 3072])  # the last three are ends of members' blocks
def test_a_cut_shard_is_refused(tmp_path: Path, keep: int) -> None:
    shard = write(tmp_path / "a.tar", [("1.bin", b"x" * 600), ("1.json", b"y" * 900)])
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        list(read_shard(shard))


def test_an_empty_archive_has_no_samples(tmp_path: Path) -> None:
    assert list(read_shard(write(tmp_path / "a.tar", []))) == []
