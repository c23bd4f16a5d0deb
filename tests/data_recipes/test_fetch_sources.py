"""Downloads against a local server: ranges, checksums, damage, unpacking; and the command line around them."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_data import cli, cli_sources
from emova_data.sources import registry
from emova_data.sources.download import download, fetch, unpack, verify
from emova_data.sources.registry import DataSource, RemoteFile, find, mixture, read_registry

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"
CONTENT = bytes(range(256)) * 4000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; knows ranges unless told otherwise; ``cut`` ends the first answers early."""

    files: dict[str, bytes] = {}
    ranges = True
    cut = 0
    asked: list[str] = []

    def do_GET(self) -> None:
        cls = type(self)
        wanted = self.headers.get("Range", "")
        cls.asked.append(wanted)
        content = cls.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and cls.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if cls.cut:
            cls.cut -= 1
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture()
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"files": {"/a.bin": CONTENT}, "asked": [], "ranges": True, "cut": 0})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_continued(server, tmp_path: Path, ranges: bool) -> None:
    handler, base = server
    handler.cut, handler.ranges = (2, True) if ranges else (1, False)
    file = RemoteFile("a.bin", md5=md5(CONTENT))
    path = download(f"{base}/a.bin", tmp_path / "a.bin", file, wait=0.01)
    assert path.read_bytes() == CONTENT and not list(tmp_path.glob("*.partial"))
    assert handler.asked[0] == "" and all(asked.startswith("bytes=") for asked in handler.asked[1:])
    before = len(handler.asked)
    download(f"{base}/a.bin", tmp_path / "a.bin", file)
    assert len(handler.asked) == before  # it is there: nothing is asked


def test_a_partial_file_of_an_earlier_run_is_continued(server, tmp_path: Path) -> None:
    handler, base = server
    (tmp_path / "a.bin.partial").write_bytes(CONTENT[:1000])
    download(f"{base}/a.bin", tmp_path / "a.bin", RemoteFile("a.bin", sha256=hashlib.sha256(CONTENT).hexdigest()))
    assert handler.asked == ["bytes=1000-"] and (tmp_path / "a.bin").read_bytes() == CONTENT
    (tmp_path / "b.bin.partial").write_bytes(CONTENT)  # whole, but killed before the rename
    download(f"{base}/a.bin", tmp_path / "b.bin", RemoteFile("a.bin", md5=md5(CONTENT)))
    assert (tmp_path / "b.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path: Path) -> None:
    _, base = server
    with pytest.raises(InputError, match="md5 is not the published one"):
        download(f"{base}/a.bin", tmp_path / "a.bin", RemoteFile("a.bin", md5="0" * 32))
    assert not list(tmp_path.iterdir())


def test_refusals_are_one_line(server, tmp_path: Path) -> None:
    handler, base = server
    with pytest.raises(InputError, match="answers 404"):
        download(f"{base}/none", tmp_path / "none", RemoteFile("none"))
    handler.cut = 99
    with pytest.raises(InputError, match="check the network"):
        download("http://127.0.0.1:9/a", tmp_path / "a", RemoteFile("a"), attempts=2, wait=0.01)


def packed(folder: Path, kind: str, names: dict[str, bytes]) -> Path:
    path = folder / f"packed.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as bundle:
            for name, content in names.items():
                bundle.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in names.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_never_write_outside(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    assert unpack(packed(tmp_path, kind, {"a/b.txt": b"b", "c.txt": b"c"}), tmp_path / "in") == 2
    assert (tmp_path / "in/a/b.txt").read_bytes() == b"b"
    with pytest.raises(InputError, match="leaves its folder"):
        unpack(packed(tmp_path, kind, {"../evil.txt": b"x"}), tmp_path / "in")
    assert not (tmp_path / "evil.txt").exists()
    path = packed(tmp_path, kind, {"a.txt": CONTENT})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged"):
        unpack(path, tmp_path / "in")


@pytest.fixture()
def corpus(server, tmp_path: Path) -> DataSource:
    """A source on the local server whose archive holds the LibriSpeech fixture."""
    handler, base = server
    root = FIXTURES / "librispeech"
    members = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    content = packed(tmp_path, "tar.gz", members).read_bytes()
    handler.files["/speech.tar.gz"] = content
    file = RemoteFile("speech.tar.gz", md5=md5(content), unpack=True)
    return replace(find("librispeech"), name="tiny", base=base, files=(file,), hub="")


def test_fetch_verify_convert_stats_by_command(
    corpus: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": corpus})
    monkeypatch.setattr(cli_sources, "registry", lambda: {"tiny": corpus})

    def command(*words: str) -> str:
        parser = argparse.ArgumentParser()
        cli.register(parser)
        args = parser.parse_args([*words])
        assert args.run(args) == 0
        return capsys.readouterr().out

    root = ["tiny", "--root", str(tmp_path / "data")]
    assert "CC-BY-4.0" in command("fetch", *root)
    assert command("verify", *root).split() == ["published", "speech.tar.gz"]
    out = command("convert", *root, "--max-skip-rate", "1")
    assert "1 records in 1 shards" in out and "left out 1: silence" in out
    assert json.loads(command("stats", *root, "--json"))["records"] == 1
    archive = tmp_path / "data/sources/tiny/speech.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(InputError, match="published"):
        command("verify", *root)
    assert {entry["name"] for entry in json.loads(command("list", "--json"))["public"]} == {"tiny"}
    for words in (["fetch", "nothing"], ["make", "tiny"], ["convert", "nano"]):
        with pytest.raises(InputError):
            command(*words)


def test_a_file_changed_after_fetching_is_seen(corpus: DataSource, tmp_path: Path) -> None:
    unpinned = replace(corpus, files=(replace(corpus.files[0], md5=""),))
    with pytest.raises(InputError, match="nothing fetched"):
        verify(unpinned, tmp_path / "s")
    fetch(unpinned, tmp_path / "s")
    assert verify(unpinned, tmp_path / "s") == {"speech.tar.gz": "as fetched"}
    (tmp_path / "s/speech.tar.gz").write_bytes(b"other")
    with pytest.raises(InputError, match="changed since"):
        verify(unpinned, tmp_path / "s")


def test_what_a_program_cannot_fetch_says_how() -> None:
    for name in ("aishell-2", "wenetspeech", "omni-speech-text"):
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch(find(name), Path("nowhere"))


def test_mixtures_and_unknown_names() -> None:
    assert mixture("3")["librispeech"] == 0.2  # a tenth, in both directions
    assert mixture("2")["librispeech"] == 2.0 and "lcs-558k" in mixture("1")
    with pytest.raises(InputError, match="did you mean librispeech"):
        find("libri-speech")
    with pytest.raises(InputError, match="stage"):
        mixture("4")


@pytest.mark.parametrize(
    ("change", "says"),
    [("nmae: x", "unknown"), ("stages: {9: 1}", "stage"), ("access: maybe", "access"), ("files: [{p: 1}]", "files"),
     ("dedup_against: [none]", "none")],
)  # fmt: skip
def test_a_wrong_entry_is_named(tmp_path: Path, change: str, says: str) -> None:
    good = {"name": "x", "title": "X", "modality": "[text]", "languages": "[en]", "licence": "MIT", "size": "1",
            "citation": "none", "stages": "{1: 1}"}  # fmt: skip
    key, _, value = change.partition(": ")
    lines = "".join(f"  {k}: {v}\n" for k, v in {**good, key: value}.items())
    (tmp_path / "x.yaml").write_text("-\n" + lines)
    with pytest.raises(InputError, match=says):
        read_registry(tmp_path)
