"""G.711 by its recommendation: known values, each code back to itself, and ffmpeg's codec as a second opinion."""

from __future__ import annotations

import av
import numpy as np
import pytest

from emova_app.g711 import RATE, from_alaw, from_ulaw, to_alaw, to_ulaw

ALL = bytes(range(256))
LAWS = {"pcm_mulaw": (to_ulaw, from_ulaw), "pcm_alaw": (to_alaw, from_alaw)}


def linear(samples: np.ndarray) -> list[int]:
    return (samples * 32768).astype(int).tolist()


def test_known_values() -> None:
    # Tables 2a and 2b (mu-law) and 1a and 1b (A-law): the ends of the scale and the values about zero.
    assert linear(from_ulaw(bytes([0xFF, 0x7F, 0xFE, 0x7E, 0x80, 0x00]))) == [0, 0, 8, -8, 32124, -32124]
    assert linear(from_alaw(bytes([0xD5, 0x55, 0xD4, 0x54, 0xAA, 0x2A]))) == [8, -8, 24, -24, 32256, -32256]
    ends = np.array([0, 1, -1, 0.9, 2, -3])
    assert to_ulaw(ends)[:3] == bytes([0xFF, 0x80, 0x00]) and to_ulaw(ends)[-2:] == bytes([0x80, 0x00])
    assert to_alaw(ends)[:3] == bytes([0xD5, 0xAA, 0x2A]) and to_alaw(ends)[-2:] == bytes([0xAA, 0x2A])


@pytest.mark.parametrize("law", LAWS)
def test_every_code_comes_back(law: str) -> None:
    to, back = LAWS[law]
    again = to(back(ALL))
    # mu-law has a second, negative, zero; it comes back as the first one.
    assert [code for code in range(256) if again[code] != code] == ([0x7F] if law == "pcm_mulaw" else [])


@pytest.mark.parametrize("law", LAWS)
def test_it_agrees_with_ffmpeg(law: str) -> None:
    to, back = LAWS[law]
    decoder = av.AudioCodecContext.create(law, "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate, decoder.layout = RATE, "mono"
    (frame,) = decoder.decode(av.Packet(ALL))
    assert frame.to_ndarray().ravel().tolist() == linear(back(ALL))
    # ffmpeg's encoder takes the nearest code; the recommendation's decision values are at most one code away.
    sound = np.arange(-32768, 32768, 17) / 32768
    assert np.abs(back(to(sound)) - sound).max() <= 1 / 32
    assert np.all(np.diff(back(to(sound))) >= 0), "louder never becomes softer"
