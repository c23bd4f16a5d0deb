"""Audio files as programs write them: unknown lengths, tags in the way, other codecs in WAV, opposite channels."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from soundfile import SoundFile

from emova import Assistant
from emova.core.errors import InputError
from emova.speech.audio import check_chunk, check_samples, load_audio
from tests.hearing import understood

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
RATE = 16_000
TONE = (0.4 * np.sin(np.arange(RATE) * 0.07) * np.linspace(0.2, 1, RATE)).astype(np.float32)
ID3 = b"ID3\x04\x00\x00\x00\x00\x00\x17TIT2\x00\x00\x00\x0d\x00\x00\x03Info at Xing"


def wav(samples: np.ndarray = TONE, **how: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", **how)
    return buffer.getvalue()


def encoded(codec: str, container: str, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.open()  # some containers want to know all of the codec first
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler(format=stream.format, layout="mono", rate=rate).resample(frame):
            for packet in stream.encode(part):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return buffer.getvalue()


def delay(found: np.ndarray, wanted: np.ndarray) -> int:
    """By how many samples ``found`` comes after ``wanted``."""
    return int(np.correlate(found, wanted, "full").argmax()) - (len(wanted) - 1)


def alike(found: np.ndarray, slack: int = 2500) -> None:
    assert abs(len(found) - len(TONE)) <= slack
    assert np.sqrt(np.mean(found**2)) == pytest.approx(np.sqrt(np.mean(TONE**2)), rel=0.15)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 2_000_000_000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("codec", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"])
def test_a_length_that_nobody_knew_is_the_length_that_is_there(codec: str, size: int) -> None:
    whole = wav(subtype=codec)
    at = whole.index(b"data") + 4
    open_ended = whole[:4] + struct.pack("<I", size) + whole[8:at] + struct.pack("<I", size) + whole[at + 4 :]
    assert np.array_equal(load_audio(open_ended, RATE), load_audio(whole, RATE))


@pytest.mark.parametrize("padded", [True, False])
def test_a_chunk_of_odd_length_with_and_without_its_padding(padded: bool) -> None:
    whole = wav()
    at = whole.index(b"data")
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx" + (b"\0" if padded else b"")
    assert np.array_equal(load_audio(whole[:at] + odd + whole[at:], RATE), load_audio(whole, RATE))


def test_what_stands_behind_the_sound_is_not_heard() -> None:
    for whole in (wav(), encoded("flac", "flac"), encoded("libmp3lame", "mp3"), encoded("aac", "mp4")):
        alike(load_audio(whole + b"TAG" + b"trailing bytes" * 9, RATE))


def test_a_file_that_is_cut_is_still_told() -> None:
    for whole in (wav(), encoded("aac", "mp4"), encoded("libopus", "ogg", 48_000)):
        with pytest.raises(InputError, match="truncated"):
            load_audio(whole[: len(whole) // 2], RATE)


@pytest.mark.parametrize("codec", [("libmp3lame", "mp3"), ("aac", "adts"), ("flac", "flac")], ids=lambda pair: pair[1])
@pytest.mark.parametrize("tag", [b"", ID3, ID3 + ID3], ids=["no tag", "a tag", "two tags"])
def test_tags_before_the_sound(codec: tuple[str, str], tag: bytes) -> None:
    alike(load_audio(tag + encoded(*codec), RATE))


def test_flac_of_unknown_length_and_in_ogg() -> None:
    whole = bytearray(encoded("flac", "flac"))
    whole[21:26] = (int.from_bytes(whole[21:26], "big") & ~((1 << 36) - 1)).to_bytes(5, "big")
    alike(load_audio(bytes(whole), RATE))
    in_ogg = (Path(__file__).parents[1] / "fixtures" / "flac_in_ogg.oga").read_bytes()  # the tone, by ffmpeg
    alike(load_audio(in_ogg, RATE))
    assert b"\x7fFLAC" in in_ogg[:64]


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_mp3_in_wav_begins_with_the_recording(rate: int) -> None:
    """As MP3 alone does whose first frame states the delay of encoder and decoder; in WAV the header states it."""
    found = load_audio(encoded("libmp3lame", "wav", rate), RATE)
    alike(found)
    assert abs(delay(found, TONE)) <= 2


def test_mp3_in_wav_is_decoded_as_another_decoder_does() -> None:
    whole = (CASES / "mp3_in_wav.wav").read_bytes()
    alone = whole[whole.index(b"data") + 8 :]
    with SoundFile(io.BytesIO(alone)) as file:  # libsndfile by mpg123; what we decode with is FFmpeg
        wanted = file.read(dtype="float32")
    assert np.allclose(load_audio(alone, RATE), wanted, atol=1e-5)
    found, spoken = load_audio(whole, RATE), load_audio(CASES / "sox_pipe_7ffff000.wav", RATE)
    assert np.allclose(found, wanted[-len(found) :], atol=1e-5) and delay(found, spoken) == 0
    wrong = found[: len(spoken)] - spoken
    assert 10 * np.log10(np.sum(spoken**2) / np.sum(wrong**2)) > 15, "24 kb/s: 17 dB of signal to noise"


def test_a_delay_that_the_sound_states_itself_is_not_taken_twice() -> None:
    path = CASES / "mp3_in_wav.wav"
    head = path.read_bytes()
    alone = encoded("libmp3lame", "mp3")  # begins with a frame that states it
    in_wav = head[: head.index(b"data") + 4] + struct.pack("<I", len(alone)) + alone
    assert np.array_equal(load_audio(in_wav, RATE), load_audio(alone, RATE))


@pytest.mark.parametrize("stated", [0, 529, 1105, 1393, 65535])
def test_of_a_stated_delay_no_more_is_left_out_than_every_encoder_has(stated: int) -> None:
    whole = bytearray((CASES / "mp3_in_wav.wav").read_bytes())
    at = whole.index(b"fmt ") + 8 + 28
    assert struct.unpack("<H", whole[at : at + 2]) == (1393,)
    whole[at : at + 2] = struct.pack("<H", stated)
    assert len(load_audio(bytes(whole), RATE)) == 22_464 - min(stated, 1105)


@pytest.mark.parametrize("second", [-1.0, -0.95, 0.0])
def test_channels_that_cancel_each_other_are_heard_alone(second: float) -> None:
    found = load_audio(wav(np.stack([TONE, second * TONE], 1), subtype="FLOAT"), RATE)
    wanted = TONE / 2 if second == 0 else TONE
    assert np.allclose(found, wanted, atol=1e-6)


def test_the_louder_of_two_opposite_channels_is_heard() -> None:
    found = load_audio(wav(np.stack([-0.9 * TONE, TONE], 1), subtype="FLOAT"), RATE)
    assert np.allclose(found, TONE, atol=1e-6)


def test_the_handed_files_say_the_same() -> None:
    spoken = load_audio(CASES / "sox_pipe_7ffff000.wav", RATE, reject_silence=True)
    heard = Assistant.from_pretrained()
    assert understood(heard.transcribe(spoken))
    names = ("tts_placeholder_2e9.wav", "ffmpeg_pipe_unknown_length.flac", "title_info_desk.flac", "mp3_in_wav.wav")
    for name in (*names, "stereo_phase_inverted.wav"):
        found = load_audio(CASES / name, RATE, reject_silence=True)
        assert abs(len(found) - len(spoken)) < 0.15 * RATE and np.abs(found).max() > 0.3, name
        assert understood(heard.transcribe(found)), name


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ((TONE, RATE), "a pair of samples and their rate"),
        ((RATE, TONE), "a pair of samples and their rate"),
        ({"array": TONE, "sampling_rate": RATE}, "a dictionary"),
        ([], "holds no sound"),
        (np.zeros(0), "holds no sound"),
        (torch.zeros(0), "holds no sound"),
        ((), "holds no sound"),
    ],
    ids=str,
)
def test_what_libraries_hand_over_is_named(tiny_checkpoint, audio, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Assistant.from_pretrained(tiny_checkpoint).tokenize(audio)


@pytest.mark.parametrize("check", [lambda x: check_samples(x, RATE), check_chunk], ids=["whole", "chunk"])
def test_tensors_of_any_kind_are_samples(check) -> None:
    plain = torch.from_numpy(TONE)
    assert np.array_equal(check(plain.clone().requires_grad_()), TONE)
    assert np.array_equal(check(plain.double()), TONE)
    assert np.allclose(check(plain.bfloat16()), TONE, atol=5e-3)
    whole = (TONE * 32767).astype(np.int16)  # as soundfile and scipy read, and full scale is plain by its kind
    for array in (whole, torch.from_numpy(whole)):
        assert np.allclose(check(array), TONE, atol=1e-4)
    for kind in (np.int32, np.int64, np.uint8, bool):
        with pytest.raises(InputError, match=rf"samples of {np.dtype(kind)}; give floats within -1 to 1, or int16"):
            check(whole.astype(kind))
    for wrong in (plain[None], torch.ones(3, dtype=torch.complex64).to_sparse(), torch.empty(8, device="meta")):
        with pytest.raises(InputError):
            check(wrong)
