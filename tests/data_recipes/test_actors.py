"""Actors' lines: the container is read or refused, a label is a line of the script or none, loops are heard once."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emova.core.errors import InputError
from emova_data.nano.speech.actors import Container, Script
from emova_data.nano.speech.labelled import Label, Recordings, is_test
from emova_data.records.recordings import read_recordings


def mp3(seconds: float, rate: int = 11025) -> bytes:
    buffer = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(buffer, tone, rate, format="MP3")
    return buffer.getvalue()


def container_file(path: Path, entries: dict[str, bytes], compression: int = 1) -> Path:
    head = b"QTBL" + b"CEM10\0" + b"\0\0" + bytes([compression]) + struct.pack(">H", len(entries))
    at = len(head) + 21 * len(entries)
    table = b""
    for name, data in entries.items():
        table += name.encode().ljust(12, b"\0") + struct.pack(">BII", 1, at, len(data))
        at += len(data)
    path.write_bytes(head + table + b"".join(entries.values()))
    return path


SPOKEN = b"\x00\x1eHey, I opened the door!*14Sometimes I amaze even myself!*24\x00\x00nHe may have been here.*WT\x00"


def test_container_gives_clips_and_script(tmp_path: Path) -> None:
    path = container_file(tmp_path / "queen.1c", {"A1.SB": mp3(1.5), "X.CUT": SPOKEN})
    container = Container.read(path)
    assert container.clips() == ["A1.SB"]
    samples = container.samples("A1.SB")
    assert samples.dtype == np.float32 and abs(len(samples) / 16000 - 1.5) < 0.2
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() * 16000 / len(samples) - 440) < 5
    assert container.script() == ["He may have been here.", "Hey, I opened the door!", "Sometimes I amaze even myself!"]


def test_what_is_no_container_is_refused_by_name(tmp_path: Path) -> None:
    whole = container_file(tmp_path / "queen.1c", {"A1.SB": mp3(1.5)})
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:-100])
    other = container_file(tmp_path / "flac", {"A1.SB": b"fLaC"}, compression=3)
    for path, reason in ((tmp_path / "none", "install"), (tmp_path / "cut", "ends before"), (other, "MP3")):
        with pytest.raises(InputError, match=f"{path.name}.*{reason}"):
            Container.read(path)


def test_label_is_the_line_that_was_nearly_heard_or_none() -> None:
    script = Script(["Truly one of God's finest creations.", "Do you sell comic books?", "Goodbye Joe."])
    assert script.find("Truly when of God's finest creations.") == "Truly one of God's finest creations."
    assert script.find("Do you sell comic books? Do you sell comic books? Do you sell") == "Do you sell comic books?"
    assert script.find("I would like to sell the moon to you, my dear.") is None
    assert script.find("") is None


def test_held_out_clips_are_never_in_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    recordings = Recordings(
        set="actors", voice="queen/actors", family="queen", gender="",
        decode=lambda name: rng.standard_normal(16000).astype(np.float32) * 0.1,
    )  # fmt: skip
    labels: dict[str, Label] = {
        f"{i}.SB": {"name": f"{i}.SB", "text": "good day to you", "score": -0.1, "seconds": 1.0} for i in range(40)
    }
    recordings.write(tmp_path, labels)
    found = {
        split: {r.record["ids"][0] for p in tmp_path.glob(f"actors-{split}-*.tar") for r in read_recordings(p, 16000)}
        for split in ("train", "test")
    }
    assert found["test"] == {name for name in labels if is_test(name)} and found["test"]
    assert found["train"] | found["test"] == set(labels) and not found["train"] & found["test"]
