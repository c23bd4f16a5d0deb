"""Reading WebDataset shards: tar files whose members ``KEY.EXTENSION`` with one key make one sample.

Nothing is unpickled and no member is written to disk. A sample's members must stand next to each other.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in its shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """The samples of a shard in order: key, and members by extension (all that follows the name's first dot).

    Raises:
        InputError: the file is no whole tar.
    """
    key, members = "", dict[str, Member]()
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                folder, slash, name = entry.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if members and folder + slash + stem != key:
                    yield key, members
                    members = {}
                key = folder + slash + stem
                members[extension] = Member(path, entry.offset_data, entry.size)
            # tarfile takes a cut last member for a whole one, and misses no block of zeros at the end.
            if tar.offset + tarfile.BLOCKSIZE > path.stat().st_size:
                raise tarfile.ReadError("unexpected end")
    except (tarfile.TarError, OSError):
        raise InputError(f"{path}: the shard is damaged; remove it and make it again") from None
    if members:
        yield key, members
