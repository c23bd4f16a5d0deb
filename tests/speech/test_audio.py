"""Audio files: what is read, what is refused, and with which words."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
import soundfile

from emova.core.errors import InputError
from emova.speech.audio import AudioLimits, check_samples, is_silent, load_audio, save_wav


def tone(seconds: float = 1.0, rate: int = 16_000, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def encoded_by_ffmpeg(samples: np.ndarray, codec: str, container: str, rate: int = 48_000) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as raised:
        load_audio(*arguments, **options)
    message = str(raised.value)
    assert "\n" not in message and ";" in message, "one line with the reason and the fix"
    return message


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_files_are_read_at_the_wanted_rate(tmp_path, kind: str, rate: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(tone(rate=rate), rate, kind))
    samples = load_audio(path, 16_000)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - 16_000) < 300
    assert 0.2 < np.abs(samples[4_000:12_000]).max() < 0.4
    spectrum = np.abs(np.fft.rfft(samples[:16_000] * np.hanning(len(samples[:16_000]))))
    assert abs(int(spectrum.argmax()) * 16_000 / len(samples[:16_000]) - 440) < 5


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("aac", "adts"), ("libopus", "webm")])
def test_containers_of_telephones_and_browsers_are_read(codec: str, container: str) -> None:
    samples = load_audio(encoded_by_ffmpeg(tone(), codec, container), 16_000)
    assert abs(len(samples) - 16_000) < 1_500 and np.abs(samples).max() > 0.2


def test_path_bytes_and_stream_are_the_same(tmp_path) -> None:
    data = encoded(tone())
    (tmp_path / "a.wav").write_bytes(data)
    from_path = load_audio(str(tmp_path / "a.wav"), 16_000)
    assert np.array_equal(from_path, load_audio(data, 16_000))
    assert np.array_equal(from_path, load_audio(io.BytesIO(data), 16_000))


def test_channels_are_mixed() -> None:
    stereo = np.stack([tone(level=0.4), np.zeros(16_000, np.float32)], axis=1)
    assert np.abs(load_audio(encoded(stereo), 16_000)).max() == pytest.approx(0.2, abs=0.01)


def test_missing_folder_and_empty(tmp_path) -> None:
    assert "no such file" in refusal(tmp_path / "no.wav", 16_000)
    assert "folder" in refusal(tmp_path, 16_000)
    (tmp_path / "empty.wav").touch()
    message = refusal(tmp_path / "empty.wav", 16_000)
    assert "empty" in message and "empty.wav" in message
    assert "neither" in refusal(42, 16_000)
    assert "no such file" in refusal("a\nb\x1b.wav", 16_000)
    assert "cannot be read" in refusal("a\0b.wav", 16_000)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(kind: str, part: float) -> None:
    data = encoded(tone(2.0), kind=kind)
    assert "truncated" in refusal(data[: int(len(data) * part)], 16_000)


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("aac", "adts")])
def test_truncated_containers_are_refused(codec: str, container: str) -> None:
    data = encoded_by_ffmpeg(tone(2.0), codec, container)
    for part in (0.3, 0.95):
        assert "truncated" in refusal(data[: int(len(data) * part)], 16_000)


@pytest.mark.parametrize(
    "data",
    [
        b"not audio at all" * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        bytes(5000),
        b"\xff" * 5000,
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVE",
        b"OggS" + bytes(100),
        b"fLaC" + bytes(100),
        b"ID3" + bytes(500),
        b"\x00\x00\x00\x20ftypM4A " + bytes(24),
        b"\x1aE\xdf\xa3" + bytes(300),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_files_without_audio_are_refused(data: bytes) -> None:
    refusal(data, 16_000)


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    sources = [encoded(tone(0.3), kind=kind) for kind in ("WAV", "FLAC", "MP3", "OGG")]
    sources += [encoded_by_ffmpeg(tone(0.3), "aac", "mp4"), encoded_by_ffmpeg(tone(0.3), "libopus", "webm")]
    for source in sources:
        for _ in range(25):
            data = bytearray(source)
            for position in rng.integers(0, min(len(data), 400), 4):
                data[position] = rng.integers(256)
            try:
                samples = load_audio(bytes(data), 16_000)
                assert np.isfinite(samples).all()
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "mp4", "adts", "webm"])
def test_decoders_say_nothing_on_the_terminal(kind: str, capfd) -> None:
    """What a decoder thinks of a damaged file is told by our error, not by its own notes on stderr."""
    codecs = {"mp4": "aac", "adts": "aac", "webm": "libopus"}
    whole = encoded_by_ffmpeg(tone(1.0), codecs[kind], kind) if kind in codecs else encoded(tone(1.0), kind=kind)
    rng = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 1 + number % 40):
            data[position] = rng.integers(256)
        with contextlib.suppress(InputError):
            load_audio(bytes(data[: rng.integers(1, len(data))] if number % 3 == 0 else data), 16_000)
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""


@pytest.mark.parametrize("tag", [0, 300, 200_000])
def test_mp3_after_a_tag_is_the_same_sound(tag: int) -> None:
    """The tag may be as long as the picture of a cover; the sound is that of libsndfile's decoder."""
    data = encoded(tone(1.0), kind="MP3")
    head = b"ID3\4\0\0" + bytes(tag >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(tag) if tag else b""
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(load_audio(head + data, 16_000), expected, atol=1e-5)


def test_length_limits_hold_while_decoding() -> None:
    limits = AudioLimits(max_seconds=1.0)
    assert len(load_audio(encoded(tone(1.0)), 16_000, limits)) == 16_000
    for kind in ("WAV", "FLAC", "MP3", "OGG"):
        assert "longer than 1 s" in refusal(encoded(tone(1.5), kind=kind), 16_000, limits)
    assert "longer than 1 s" in refusal(encoded_by_ffmpeg(tone(1.5), "aac", "mp4"), 16_000, limits)
    assert "longer than 60 s" in refusal(encoded(tone(61.0, 8_000), 8_000), 16_000)
    assert "shorter" in refusal(encoded(tone(0.01)), 16_000)
    assert "no sound" in refusal(encoded(np.zeros(0, np.float32)), 16_000)
    assert "larger than" in refusal(encoded(tone()), 16_000, AudioLimits(max_bytes=1000))


@pytest.mark.parametrize("rate", [1, 100, 3_999, 400_000, 2_000_000_000])
def test_absurd_sample_rates(rate: int) -> None:
    data = bytearray(encoded(tone()))
    data[24:28] = struct.pack("<I", rate)
    refusal(bytes(data), 16_000)


def test_too_many_channels() -> None:
    assert "channels" in refusal(encoded(np.zeros((1000, 64), np.float32)), 16_000)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_sound(wrong: float) -> None:
    samples = tone()
    samples[5_000] = wrong
    refusal(encoded(samples, subtype="FLOAT"), 16_000)
    with pytest.raises(InputError):
        check_samples(samples, 16_000)


def test_silence_is_refused_where_a_question_is_expected() -> None:
    rng = np.random.default_rng(0)
    for silent in (
        np.zeros(16_000, np.float32),
        np.full(16_000, 0.5, np.float32),
        (rng.standard_normal(16_000) * 1e-4).astype(np.float32),
    ):
        data = encoded(silent)
        assert len(load_audio(data, 16_000)) == 16_000
        assert "silence" in refusal(data, 16_000, reject_silence=True)
    click = np.zeros(48_000, np.float32)
    click[20_000:24_000] = tone(0.25, level=0.02)
    assert not is_silent(click, 16_000)


def test_a_wav_from_a_pipe_with_open_size_is_read() -> None:
    data = bytearray(encoded(tone()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert abs(len(load_audio(bytes(data), 16_000)) - 16_000) < 2


def test_saved_wav_reads_back(tmp_path) -> None:
    path = tmp_path / "a.wav"
    save_wav(path, tone() * 5, 24_000)
    assert soundfile.info(path).subtype == "PCM_16"
    assert np.abs(load_audio(path, 24_000) - (tone() * 5).clip(-1, 1)).max() < 1e-4
    assert [each.name for each in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_save_leaves_nothing(tmp_path) -> None:
    for path in (tmp_path / "a.mp3", tmp_path / "missing" / "a.wav"):
        with pytest.raises(InputError):
            save_wav(path, tone(), 16_000)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(InputError, match="folder"):
        save_wav(tmp_path / "folder.wav", tone(), 16_000)
    assert [each.name for each in tmp_path.rglob("*")] == ["folder.wav"]
