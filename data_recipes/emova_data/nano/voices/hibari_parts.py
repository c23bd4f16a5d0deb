"""hibari's acoustic model cut in two, so that durations, F0 and energy can be read and changed between the halves.

The published graph maps phone ids to a spectrum in one go. Inside it is a FastSpeech 2-like cascade (Ren et al. 2021):
text encoder, durations in 25 ms steps, F0 and energy at 80 Hz, decoder. ``front`` ends at those three and at the
spread-out text features; ``back`` turns them into the spectrum. Nothing is retrained.

Shapes: N phone ids with the pad at both ends, F frames of 12.5 ms (300 samples at 24 kHz), K = 601 bins.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

# Tensor names inside hibari-tts 0.2.1's graph; another release may name them otherwise, which `_cut` then reports.
_DURATION = "/Clip_output_0"
_ENERGY = "/Mul_62_output_0"
_TEXT = "/Reshape_42_output_0"
_F0 = "f0"
_SPECTRUM = ("lh", "theta", "ln", "lr", "phi")
FRAMES_PER_DURATION = 2
HOP = 300
SAMPLE_RATE = 24000


@dataclass(frozen=True)
class Prosody:
    """What the front half predicts for one sentence.

    durations: [N] 25 ms steps of each id; f0: [F] Hz, below 40 unvoiced; energy: [F]; text: [1, C, F].
    """

    durations: np.ndarray
    f0: np.ndarray
    energy: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class Spectrum:
    """What the back half predicts, each [K, F]: harmonic log magnitude and phase, noise log magnitude, free part."""

    harmonic: np.ndarray
    phase: np.ndarray
    noise: np.ndarray
    free: np.ndarray
    free_phase: np.ndarray


def _cut(model: ModelProto, inputs: list[tuple[str, int, Sequence[str | int | None]]], outputs: list[str]) -> bytes:
    """The subgraph of ``model`` between ``inputs`` (name, element type, shape) and ``outputs``."""
    from onnx import TensorProto, helper

    producers = {name: node for node in model.graph.node for name in node.output}
    stops = {name for name, _, _ in inputs}
    wanted: set[int] = set()
    stack = [name for name in outputs if name not in stops]
    used: set[str] = set()
    while stack:
        name = stack.pop()
        used.add(name)
        node = producers.get(name)
        if node is None or id(node) in wanted or name in stops:
            continue
        wanted.add(id(node))
        stack.extend(i for i in node.input if i)
    nodes = [node for node in model.graph.node if id(node) in wanted]
    reads = {i for node in nodes for i in node.input}
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in reads],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return part.SerializeToString()


class HibariParts:
    """The two halves as onnxruntime sessions on one thread each.

    Args:
        threads: onnxruntime's intra-op threads.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, threads: int = 1) -> None:
        import hibari
        import onnx
        import onnxruntime
        from hibari.tts import ASSETS
        from onnx import TensorProto

        assert hibari is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        model = onnx.load(str(Path(ASSETS) / "hibari.onnx"))
        front = _cut(
            model,
            [("ids", TensorProto.INT64, [1, None]), ("speed", TensorProto.FLOAT, [1])],
            [_DURATION, _F0, _ENERGY, _TEXT],
        )
        back = _cut(
            model,
            [
                (_F0, TensorProto.FLOAT, [1, None]),
                (_ENERGY, TensorProto.FLOAT, [1, None]),
                (_TEXT, TensorProto.FLOAT, [1, None, None]),
            ],
            list(_SPECTRUM),
        )
        providers = ["CPUExecutionProvider"]
        self._front = onnxruntime.InferenceSession(front, options, providers=providers)
        self._back = onnxruntime.InferenceSession(back, options, providers=providers)

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        import json

        from hibari.tts import ASSETS

        return json.loads((Path(ASSETS) / "vocab.json").read_text(encoding="utf-8"))

    def symbols(self, phonemes: str) -> list[str]:
        """The symbols of ``phonemes`` that the model knows, in order."""
        return [symbol for symbol in phonemes if symbol in self.vocabulary]

    def predict(self, phonemes: str, speed: float = 1.0) -> Prosody:
        """Durations, F0 and energy of one sentence."""
        ids = [0, *(self.vocabulary[s] for s in self.symbols(phonemes)), 0]
        durations, f0, energy, text = self._front.run(
            None, {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        )
        return Prosody(durations.reshape(-1), f0[0], energy[0], text)

    def spectrum(self, prosody: Prosody) -> Spectrum:
        """The spectrum for the given prosody."""
        feed = {_F0: prosody.f0[None], _ENERGY: prosody.energy[None], _TEXT: prosody.text}
        return Spectrum(*(part[0] for part in self._back.run(None, feed)))

    @staticmethod
    def synthesize(spectrum: Spectrum, f0: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Waveform [F * 300] at 24 kHz."""
        from hibari import dsp

        return dsp.synth(spectrum.harmonic, spectrum.phase, spectrum.noise, spectrum.free, spectrum.free_phase, f0, rng)
