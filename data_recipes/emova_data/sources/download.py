"""Fetching: HTTP with ranges, ``.partial`` files and checksums; the hub through its own client; safe unpacking."""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import json
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_data.records.shard_writer import write_json
from emova_data.sources.registry import DataSource, RemoteFile

CHECKSUMS = "checksums.json"
_BLOCK = 1 << 18
Report = Callable[[str, int, int], None]


def _quiet(name: str, done: int, size: int) -> None:
    return


def digest_of(path: Path, kind: str) -> str:
    """Hex digest of a file; ``kind`` is md5 or sha256."""
    # md5 is what some sites publish; it guards against damage, not against malice.
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check(path: Path, file: RemoteFile) -> None:
    for kind, wanted in (("sha256", file.sha256), ("md5", file.md5)):
        if wanted:
            if digest_of(path, kind) != wanted:
                raise InputError(f"{file.path}: its {kind} is not the published one; delete it and fetch again")
            return


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    return answer


def download(
    url: str, target: Path, file: RemoteFile, *, attempts: int = 5, wait: float = 1.0, timeout: float = 60.0,
    report: Report = _quiet,
) -> Path:  # fmt: skip
    """Fetch ``url`` to ``target``, going on from ``target.partial``, and compare the published checksum.

    Raises:
        InputError: the server refuses, the connection fails ``attempts`` times without a byte in between, or the
            checksum differs (the damaged file is then removed).
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    failures = 0
    while True:
        start = partial.stat().st_size if partial.is_file() else 0
        try:
            with _open(url, start, timeout) as answer:
                if start and answer.status != 206:
                    start = 0  # the server does not know ranges: begin again
                length = answer.headers.get("Content-Length")
                size = start + int(length) if length and length.isdigit() else 0
                done = start
                with partial.open("ab" if start else "wb") as out:
                    while block := answer.read(_BLOCK):
                        out.write(block)
                        done += len(block)
                        failures = 0
                        report(file.path, done, size)
                    out.flush()
                    os.fsync(out.fileno())
            if size and done < size:
                raise ConnectionError
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:
                break  # nothing is left to fetch
            if error.code not in (408, 429, 500, 502, 503, 504):
                raise InputError(f"{file.path}: the server answers {error.code}; see the source's page") from None
        except (OSError, http.client.HTTPException):
            pass
        failures += 1
        if failures >= attempts:
            raise InputError(f"{file.path}: could not be fetched; check the network and run the command again")
        time.sleep(wait * 2 ** (failures - 1))
    try:
        _check(partial, file)
    except InputError:
        partial.unlink()
        raise
    partial.replace(target)
    return target


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file


def _members(archive: Path) -> Iterable[tuple[str, Callable[[], IO[bytes]]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield info.filename, partial(bundle.open, info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():  # links and devices are never written
                yield member.name, partial(_extracted, tar, member)


def unpack(archive: Path, folder: Path, *, nested: bool = True) -> int:
    """Write the regular files of a tar or zip archive below ``folder``; archives within are unpacked too.

    Returns: the number of files.

    Raises:
        InputError: the archive is damaged or a name in it leads out of the folder.
    """
    count, inner = 0, []
    try:
        for name, opener in _members(archive):
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts:
                raise InputError(
                    f"{archive.name}: a packed path leaves its folder; the archive is not what it should be"
                )
            path = folder / pure
            path.parent.mkdir(parents=True, exist_ok=True)
            with opener() as source, path.open("wb") as out:
                shutil.copyfileobj(source, out, _BLOCK)
            count += 1
            if nested and path.name.endswith((".tar.gz", ".tgz", ".tar")):
                inner.append(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError):
        raise InputError(f"{archive.name}: damaged, or the disk is full; delete it and fetch again") from None
    for path in inner:
        count += unpack(path, path.parent, nested=False)
        path.unlink()
    return count


def _from_hub(source: DataSource, folder: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise InputError(f"{source.name}: comes from the hub; pip install huggingface_hub") from None
    try:
        snapshot_download(
            source.hub, repo_type="dataset", local_dir=str(folder), allow_patterns=list(source.hub_files) or None
        )
    except (HfHubHTTPError, OSError):
        raise InputError(
            f"{source.name}: {source.hub} could not be fetched from the hub; check the network, and for gated sets "
            "accept the terms there and set HF_TOKEN"
        ) from None


def fetch(source: DataSource, folder: Path, *, report: Report = _quiet) -> list[Path]:
    """Fetch ``source`` into ``folder``, unpack its archives, and note every fetched file's SHA-256.

    Raises:
        InputError: it cannot be fetched by a program, or something failed.
    """
    if source.access in ("form", "generated") or not (source.hub or source.files):
        raise InputError(f"{source.name}: cannot be fetched by this command. {source.note}")
    folder.mkdir(parents=True, exist_ok=True)
    if source.hub:
        _from_hub(source, folder)
        # By the patterns, so that files unpacked by an earlier call are not taken for fetched ones.
        names = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()}
        paths = [path for path, name in names.items() if any(fnmatch.fnmatch(name, p) for p in source.hub_files)]
        packed = [path for path in paths if path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))]
    else:
        paths, packed = [], []
        for file in source.files:
            path = download(f"{source.base.rstrip('/')}/{file.path}", folder / file.path, file, report=report)
            paths.append(path)
            if file.unpack:
                packed.append(path)
    known = _read_checksums(folder)
    for path in paths:
        known.setdefault(path.relative_to(folder).as_posix(), digest_of(path, "sha256"))
    write_json(folder / CHECKSUMS, known)
    for path in packed:
        marker = path.with_name(path.name + ".unpacked")
        if not marker.is_file():
            unpack(path, path.parent)
            write_text(marker, "")
    return paths


def _read_checksums(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def verify(source: DataSource, folder: Path) -> dict[str, str]:
    """File -> "published" (its published checksum holds) or "as fetched" (it is unchanged since it was fetched).

    Raises:
        InputError: nothing was fetched, a file is missing, or one differs.
    """
    known = _read_checksums(folder)
    if not known:
        raise InputError(f"{folder}: nothing fetched here; run `emova data fetch {source.name}`")
    published = {file.path: file for file in source.files if file.md5 or file.sha256}
    result = {}
    for name, wanted in known.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: missing; run `emova data fetch {source.name}` again")
        if name in published:
            _check(path, published[name])
            result[name] = "published"
        elif digest_of(path, "sha256") != wanted:
            raise InputError(f"{path}: changed since it was fetched; delete it and fetch again")
        else:
            result[name] = "as fetched"
    return result
