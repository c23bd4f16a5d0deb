"""A streamed chunk of the voice by other runtimes: torch, ``convolution.c``, AOTInductor, and ONNX Runtime.

The last two get a chunk in the middle of a stream as a graph of fixed shapes, with what the layers keep of the past as
inputs and outputs, so each length of chunk needs a graph of its own. With ``--network`` the chunk ends before the
spectrum, whose complex numbers cannot be exported to ONNX; that export needs ``onnxscript``. A runtime that fails
is left out, and told.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from emova.checkpoint.loading import load_voice
from emova.cli.main import run_program
from emova.native.compiled import CONVOLUTION
from emova.speech.detokenizer.layers import Past, join, of_style
from emova.speech.detokenizer.source import frame_phases
from emova.speech.detokenizer.u2s import U2SDetokenizer, U2SStream
from emova.speech.detokenizer.vits import PitchFrame
from emova.speech.detokenizer.waveform_heads import ISTFTHead
from emova.speech.style import Style
from emova_bench.common import arguments, median, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHUNK = 5
"""Units of a chunk: the first of a reply."""
WAYS = ("torch", "convolution.c", "AOTInductor", "ONNX Runtime")
State = tuple[Tensor, ...]


class SteadyNetwork(nn.Module):
    """The networks of such a step, up to the magnitudes and phases of the spectrum."""

    def __init__(self, stream: U2SStream) -> None:
        super().__init__()
        self.vits, self.style_BS = stream.detokenizer.vits, stream.style_BS
        self.of_style = dict(stream.past._of_style)
        self.keys: list[Hashable] = []
        kept = stream.past._kept
        past = self._run(torch.zeros(1, CHUNK, dtype=torch.int64), kept)[1]
        self.keys = [key for key, before in kept.items() if past._kept[key] is not before]

    def _run(self, units_BN: Tensor, kept: dict[Hashable, Tensor]) -> tuple[Tensor, Past]:
        past, vits, head = Past(), self.vits, self.vits.head
        assert isinstance(head, ISTFTHead)
        past._kept, past._of_style = dict(kept), dict(self.of_style)
        prior = vits.prior(units_BN, self.style_BS, past=past)
        z_BZF = vits.latents(prior, self.style_BS, None, None, past)
        assert prior.log_f0_BF is not None and prior.voicing_BF is not None
        pitch_B2F = torch.stack([prior.log_f0_BF, prior.voicing_BF], dim=1)
        z_BZF = torch.cat(join(past, "pitch", z_BZF, pitch_B2F), dim=1)
        x_BCF = head.enter(z_BZF, past) + of_style(past, head.from_style, self.style_BS)[:, :, None]
        for block in head.blocks:
            x_BCF = block(x_BCF, None, None, past)
        return head.leave(head.norm(x_BCF)), past

    def forward(self, units_BN: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """``[B, P, F]`` and the new state."""
        parts_BPF, past = self._run(units_BN, dict(zip(self.keys, state, strict=True)))
        return (parts_BPF, *(past._kept[key].clone() for key in self.keys))


class SteadyChunk(nn.Module):
    """``U2SStream.step`` in the middle of a stream, its state given and returned."""

    def __init__(self, stream: U2SStream) -> None:
        super().__init__()
        self.vits, self.style_BS = stream.detokenizer.vits, stream.style_BS
        self.keys: list[Hashable] = list(stream.past._kept)
        self.of_style = dict(stream.past._of_style)

    def forward(self, units_BN: Tensor, noise_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Samples ``[B, t]`` and the new state: F0, voicing and phase of the last frame, then what the layers keep."""
        f0_B1, voiced_B1, phase_B1, *kept = state
        past, vits = Past(), self.vits
        past._kept, past._of_style = dict(zip(self.keys, kept, strict=True)), dict(self.of_style)
        prior = vits.prior(units_BN, self.style_BS, past=past)
        z_BZF = vits.latents(prior, self.style_BS, None, None, past)
        assert prior.log_f0_BF is not None and prior.voicing_BF is not None
        f0_BF, voiced_BF = prior.log_f0_BF.exp(), prior.voicing_BF > 0
        rates = vits.config.sample_rate, vits.config.hop_length
        f0_all, voiced_all = torch.cat([f0_B1, f0_BF], 1), torch.cat([voiced_B1, voiced_BF], 1)
        phase_BF = frame_phases(f0_all, voiced_all, phase_B1[:, 0], *rates)[:, 1:]
        before = PitchFrame(f0_B1, voiced_B1, phase_B1)
        excitation = vits.excite(f0_BF, voiced_BF, phase_BF, noise_BT, before, ends=False)
        samples = vits.head(z_BZF, self.style_BS, excitation, None, past).clamp(-1.0, 1.0)
        ends = f0_BF[:, -1:], voiced_BF[:, -1:], phase_BF[:, -1:]
        return (samples, *(end.clone() for end in ends), *(past._kept[key].clone() for key in self.keys))


def warm(
    detokenizer: U2SDetokenizer, style_BS: Tensor, units: Tensor, network: bool
) -> tuple[SteadyChunk | SteadyNetwork, State]:
    """A chunk's module, and the state after ``units``."""
    stream = U2SStream(detokenizer, style_BS, temperature=0.0, pitch_scale=1.0, seed=0)
    shapes: list[list[torch.Size]] = []
    for chunk in units.split(CHUNK, dim=1):
        stream.step(chunk)
        shapes.append([kept.shape for kept in stream.past._kept.values()])
    assert shapes[-1] == shapes[-2], "the stream is not in its middle yet"
    if network:
        part = SteadyNetwork(stream).eval()
        return part, tuple(stream.past._kept[key].clone() for key in part.keys)
    assert stream.pitch is not None
    pitch = stream.pitch.f0_B1, stream.pitch.voiced_B1, stream.pitch.phase_B1
    return SteadyChunk(stream).eval(), (*pitch, *(kept.clone() for kept in stream.past._kept.values()))


def by_inductor(chunk: nn.Module, given: State, folder: Path) -> Callable[..., Sequence[Tensor]]:
    """The graph compiled ahead of time."""
    program = torch.export.export(chunk, given, strict=False)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "chunk.pt2"))
    return torch._inductor.aoti_load_package(path)


def by_onnxruntime(chunk: nn.Module, given: State, folder: Path, threads: int) -> Callable[..., Sequence[Tensor]]:
    """The graph in ONNX Runtime."""
    import onnxruntime

    path = folder / "chunk.onnx"
    torch.onnx.export(chunk, given, str(path), dynamo=True, external_data=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    # A tensor that the graph does not use, such as F0 of an unvoiced frame, is no input of it.
    names = [each.name for each in session.get_inputs()]
    assert len(names) == len(given), "the graph lacks an input"

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(made) for made in session.run(None, feed)]

    return run


@torch.no_grad()
def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("runtimes", __doc__ or "")
    parser.add_argument("--chunks", type=int, default=40, help="chunks of a round")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="the runtimes that are timed")
    parser.add_argument("--network", action="store_true", help="without spectrum and sound")
    options = parse(parser, given, chunks=4)
    voice = load_voice(options.checkpoint)
    detokenizer = voice.detokenizer
    assert isinstance(detokenizer, U2SDetokenizer), "only this voice has a step of fixed shapes"
    units = torch.randint(0, detokenizer.codebook_size, (1, CHUNK * 12), generator=torch.Generator().manual_seed(0))
    chunk, state = warm(detokenizer, voice.prototypes[Style()][None], units, options.network)
    noise = torch.randn(1, CHUNK * detokenizer.samples_per_unit, generator=torch.Generator().manual_seed(1))
    drive = () if options.network else (noise,)
    example = units[:, :CHUNK], *drive, *state
    ways: dict[str, Callable[..., Sequence[Tensor]]] = {}
    facts: dict[str, str] = {}
    built: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        makers: dict[str, Callable[[], Callable[..., Sequence[Tensor]]]] = {
            "torch": lambda: chunk,
            "convolution.c": lambda: chunk,
            "AOTInductor": lambda: by_inductor(chunk, example, Path(name)),
            "ONNX Runtime": lambda: by_onnxruntime(chunk, example, Path(name), options.threads),
        }
        for way, make in makers.items():
            if way not in options.only:
                continue
            started = time.perf_counter()
            try:
                with CONVOLUTION.off():
                    ways[way] = make()
            except Exception as error:  # whatever another project's exporter raises
                facts[f"{way} is left out"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            built[way] = time.perf_counter() - started
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        sounds: dict[str, Tensor] = {}
        for _ in range(options.repeats):
            for way, run in ways.items():
                with nullcontext() if way == "convolution.c" else CONVOLUTION.off():
                    now, made = list(state), []
                    for index in range(options.chunks):
                        at = index % 12 * CHUNK
                        started = time.perf_counter()
                        samples, *now = run(units[:, at : at + CHUNK], *drive, *now)
                        seconds[way].append(time.perf_counter() - started)
                        made.append(samples)
                    sounds[way] = torch.cat(made, dim=-1)
    exact = next(iter(ways))
    level = sounds[exact].square().mean().sqrt()
    rows: list[dict[str, object]] = [
        {
            "runtime": way,
            "ms a chunk, median": 1000 * median(times),
            "ms, fastest": 1000 * min(times),
            f"x {exact}": median(seconds[exact]) / median(times),
            f"difference from {exact}": float((sounds[way] - sounds[exact]).square().mean().sqrt() / level),
            "s to build": built[way],
        }
        for way, times in seconds.items()
    ]

    def draw(axes: Axes) -> None:
        axes.bar(list(seconds), [1000 * median(times) for times in seconds.values()])
        axes.set_ylabel("ms a chunk")

    report("runtimes", options, rows, draw, **facts)


if __name__ == "__main__":
    run_program(main)
