"""What an audio file is, by its own bytes: which decoder takes it, whether it is whole, and WAV as it should have been.

Programs that write to a pipe cannot go back to note a length; speech services note one that no file has. Decoders take
such a note at its word, so WAV files are written anew in memory with the length that they have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MP3_IN_WAV = (0x50, 0x55)
_MP3_DELAY = 576 + 529
"""Samples before the recording's own: LAME's, which are the fewest of any encoder, and every decoder's. FFmpeg states
1,393 whoever encoded; what is beyond these would be cut from the recording."""
_UNKNOWN = 1 << 30
"""A WAV that says to be larger than this was written by a program that did not know its length."""


@dataclass(frozen=True)
class Container:
    """How a file is decoded.

    Attributes:
        data: what the decoder gets.
        demuxer: FFmpeg's name of the container; None: libsndfile reads it.
        whole: False where the container says that it goes on beyond the file's end.
        delay: decoded samples that come before the recording's own, where the decoder does not leave them out.
    """

    data: bytes
    demuxer: str | None = None
    whole: bool = True
    delay: int = 0


def identify(data: bytes) -> Container:
    """Which decoder takes ``data``.

    FFmpeg's demuxer is named, never guessed by FFmpeg: some of its formats are lists of other files and addresses. MP3
    goes to FFmpeg too, since libsndfile's decoder of it writes its complaints to the terminal.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _wav(data)
    if data[4:8] == b"ftyp":
        return Container(data, "mp4", _mp4_whole(data))
    if data[:4] == b"\x1aE\xdf\xa3":
        return Container(data, "matroska")
    tag = _tag_bytes(data)
    bare = data[tag:]
    if bare[:4] == b"fLaC":
        return Container(bare, None if _flac_samples(bare) else "flac")
    if bare[:4] == b"OggS":
        return Container(bare, "ogg" if b"\x7fFLAC" in bare[:64] else None, _ogg_whole(bare))
    if len(bare) > 1 and bare[0] == 0xFF and bare[1] & 0xE0 == 0xE0:
        # The two bits of the layer are 0 in AAC alone.
        if bare[1] & 0x06:
            return Container(data, "mp3", _mp3_whole(bare))
        if bare[1] & 0xF0 == 0xF0:
            return Container(bare, "aac")
    return Container(data)


def _tag_bytes(data: bytes) -> int:
    """How many bytes the ID3v2 tags before the sound take."""
    total = 0
    while data[total : total + 3] == b"ID3" and len(data) >= total + 10:
        size = 0
        for byte in data[total + 6 : total + 10]:
            size = size << 7 | byte & 0x7F
        total += 10 + size + (10 if data[total + 5] & 0x10 else 0)
    return total


def _chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """(name, start, noted size) of a WAV's chunks, up to the one that holds the sound."""
    found, position = [], 12
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position : position + 8])
        found.append((name, position + 8, size))
        if name == b"data":
            break
        end = position + 8 + size
        # A chunk of odd length is followed by one byte more; some programs leave it out.
        unpadded = size % 2 and data[end : end + 4].isalnum() and not data[end + 1 : end + 5].strip().isalnum()
        position = end + (0 if unpadded or data[end : end + 4] == b"data" else size % 2)
    return found


def _wav(data: bytes) -> Container:
    chunks = _chunks(data)
    kept = [(name, data[start : start + size]) for name, start, size in chunks if name in (b"fmt ", b"fact")]
    if not chunks or chunks[-1][0] != b"data" or not any(name == b"fmt " and len(raw) >= 16 for name, raw in kept):
        return Container(data, whole=False)
    _, start, size = chunks[-1]
    left = len(data) - start
    if size == 0 or size >= _UNKNOWN:
        size = left
    whole = size <= left + 1
    sound = data[start : start + size]
    form = next(raw for name, raw in kept if name == b"fmt ")
    if struct.unpack("<H", form[:2])[0] in _MP3_IN_WAV:
        return Container(sound, "mp3", whole, _mp3_delay(form, sound))
    body = b"WAVE" + b"".join(_chunk(name, raw) for name, raw in (*kept, (b"data", sound)))
    return Container(b"RIFF" + struct.pack("<I", len(body)) + body, whole=whole)


def _chunk(name: bytes, raw: bytes) -> bytes:
    return name + struct.pack("<I", len(raw)) + raw + b"\0" * (len(raw) % 2)


def _flac_samples(data: bytes) -> int:
    """How many samples a FLAC file says to have; 0: it does not know, or is no FLAC."""
    if len(data) < 26:
        return 0
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1


def _ogg_whole(data: bytes) -> bool:
    """Whether the last page is marked as the end of its stream, and there."""
    last = data.rfind(b"OggS")
    if len(data) < last + 27:
        return False
    segments = data[26 + last]
    page = data[last + 27 : last + 27 + segments]
    return bool(data[last + 5] & 4) and len(data) >= last + 27 + segments + sum(page)


def _mp4_whole(data: bytes) -> bool:
    """Whether every box is there; what stands behind the last one is no box and does not count."""
    position: int = 0
    seen: set[bytes] = set()
    while position + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[position : position + 8])
        if size == 1 and position + 16 <= len(data):
            size = struct.unpack(">Q", data[position + 8 : position + 16])[0]
        elif size == 0:
            return True
        trailing = {b"moov", b"mdat"} <= seen
        if size < 8 or not kind.isalnum():
            return trailing
        if position + size > len(data):
            return trailing and kind not in (b"moov", b"mdat", b"moof")
        seen.add(kind)
        position += size
    return True


def _mp3_delay(form: bytes, data: bytes) -> int:
    """What a WAV's ``fmt `` chunk states (MPEGLAYER3WAVEFORMAT), unless the first frame does: that FFmpeg reads."""
    if len(form) < 30 or _mp3_tag(data[_tag_bytes(data) :]) is not None:
        return 0
    return int(min(struct.unpack("<H", form[28:30])[0], _MP3_DELAY))


def _mp3_tag(data: bytes) -> int | None:
    """Where the tag Xing or Info stands in an MP3's first frame, behind its side data."""
    if len(data) < 4:
        return None
    version_1, mono = data[1] & 0x08 != 0, data[3] & 0xC0 == 0xC0
    at = 4 + ((17 if mono else 32) if version_1 else (9 if mono else 17))
    return at if data[at : at + 4] in (b"Xing", b"Info") and len(data) >= at + 16 else None


def _mp3_whole(data: bytes) -> bool:
    """Whether all bytes are there that an MP3's first frame counts."""
    at = _mp3_tag(data)
    if at is None:
        return True
    flags = struct.unpack(">I", data[at + 4 : at + 8])[0]
    return flags & 3 != 3 or struct.unpack(">I", data[at + 12 : at + 16])[0] <= len(data)
