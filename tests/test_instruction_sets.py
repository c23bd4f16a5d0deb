"""The compiled step in every instruction set that can be run here: on the processor, or in an emulator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from emova import Assistant
from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.engine.engine import Engine, EngineConfig
from emova.native import isa, parity, step
from emova.native.compiled import STEP
from emova.native.int4 import GROUP, int4_floats, int4_groups
from emova.native.isa import ISAS, Isa
from emova.native.kernel import SWITCH, Kernel
from emova.native.large_pages import LargePages
from emova.native.panels import Kind, Panels, packed, panels
from emova_bench.decode import engine_seconds, quality
from tests.native.emulated import Emulated, compiled

HERE = [each for each in ISAS if each.machines and isa.runs(each)]
# What only processors without AVX-512 have, in the encoding that those with it have: the same source, other bytes.
EVEX_VNNI = Isa(
    "avx2-vnni in AVX-512's encoding",
    isa.ISAS[0].machines,
    ("-march=x86-64-v3", "-mavx512vnni", "-mavx512vl"),
    isa.ISAS[1].needs,
)
ARM = [each for each in ISAS if "aarch64" in each.machines]


def kernel() -> Kernel:
    return Kernel(STEP.source, step.bind, parity.step_agrees)


@pytest.mark.parametrize("each", HERE, ids=lambda each: each.name)
def test_each_set_of_this_processor_equals_torch(each: Isa, monkeypatch) -> None:
    """The probe: five kinds of weights, two of caches, two sequences; 1e-4 of torch in floats, 1e-3 in whole numbers,
    4e-3 where keys and values are float16."""
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setenv(isa.CHOICE, each.name)
    made = kernel()
    if made.prepare() is None and "differs" not in made.status().why:
        pytest.skip(made.status().why)  # no compiler, or one that does not know it
    assert made.status().runs == "compiled" and made.status().why.startswith(f"{each.name}, ")


@pytest.mark.skipif(not isa.runs(EVEX_VNNI), reason="needs AVX-512 VNNI")
def test_vnni_of_256_bits_equals_torch(monkeypatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr("emova.native.kernel.candidates", lambda: (EVEX_VNNI,))
    made = kernel()
    if made.prepare() is None and "differs" not in made.status().why:
        pytest.skip(made.status().why)
    assert made.status().why.startswith(EVEX_VNNI.name)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("qemu-x86_64")), reason="needs gcc and qemu-user")
def test_avx2_asks_for_no_more(tmp_path: Path) -> None:
    """In an emulator of a processor that has nothing beyond AVX2: an instruction of another would end the program."""
    (each,) = (each for each in ISAS if each.name == "avx2")
    flags = [flag for flag in each.flags if "native" not in flag]
    emulated = Emulated(["qemu-x86_64", "-cpu", "Haswell", str(compiled("gcc", flags, tmp_path))])
    assert parity.step_agrees(emulated.as_library()) and emulated.calls == 4 * len(Kind)


@pytest.mark.slow
@pytest.mark.parametrize("each", ARM, ids=lambda each: each.name)
def test_each_set_of_arm_equals_torch(each: Isa, tmp_path: Path) -> None:
    """The same probe with the code for Arm, in an emulator."""
    tools = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    if not all(map(shutil.which, tools)):
        pytest.skip("needs Debian's gcc-aarch64-linux-gnu and qemu-user")
    # A processor that has no more than what the set needs, so that an instruction beyond it is noticed.
    processor = "cortex-a57" if each.name == "neon" else "cortex-a76"
    program = compiled(tools[0], each.flags, tmp_path)
    emulated = Emulated([tools[1], "-cpu", processor, str(program)])
    assert parity.step_agrees(emulated.as_library()) and emulated.calls == 4 * len(Kind)


def test_the_best_comes_first_and_another_can_be_named(monkeypatch) -> None:
    monkeypatch.delenv(isa.CHOICE, raising=False)
    found = isa.candidates()
    assert found and found[-1].name == "any"
    for better, worse in zip(found, found[1:], strict=False):
        assert worse.needs <= better.needs or not set(better.machines) & set(worse.machines)
    monkeypatch.setenv(isa.CHOICE, "any")
    assert [each.name for each in isa.candidates()] == ["any"]
    monkeypatch.setenv(isa.CHOICE, "mmx")
    with pytest.raises(InputError, match="EMOVA_ISA=mmx: this processor runs .*any"):
        isa.candidates()
    monkeypatch.setattr(isa, "cpu_features", lambda: frozenset({"avx2"}))
    monkeypatch.delenv(isa.CHOICE)
    assert [each.name for each in isa.candidates()] == ["any"]  # AVX2 without FMA is not enough


def test_a_processor_that_nobody_knows_runs_plain_code_that_equals_torch(monkeypatch) -> None:
    monkeypatch.delenv(isa.CHOICE, raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(isa, "cpu_features", frozenset)
    assert [each.name for each in isa.candidates()] == ["any"]
    monkeypatch.setattr(isa.platform, "machine", lambda: "riscv64")
    assert [each.name for each in isa.candidates()] == ["any"]
    made = kernel()
    if made.prepare() is None and "differs" not in made.status().why:
        pytest.skip(made.status().why)
    assert made.status().why.startswith("any, ")


def test_what_is_wrong_or_not_to_be_compiled_gives_way_to_the_next(tmp_path: Path, monkeypatch) -> None:
    """A set that this compiler does not know, one whose result is wrong, and then one that runs."""
    if len(HERE) < 1 or STEP.status().runs == "torch":
        pytest.skip("no compiled code here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(SWITCH, raising=False)
    best = HERE[-1]
    unknown = Isa("unknown", best.machines, ("-mno-such-thing",))
    wrong = Isa("wrong", best.machines, (*best.flags, "-DEPS_IS_WRONG"))
    monkeypatch.setattr("emova.native.kernel.candidates", lambda: (unknown, wrong, best))
    checked: list[bool] = []

    def check(lib: object) -> bool:
        checked.append(len(checked) > 0)
        return checked[-1]

    made = Kernel(STEP.source.with_name("convolution.c"), lambda lib: lib, check)
    assert made.prepare() is not None and checked == [False, True]
    assert made.status().why.startswith(f"{best.name}, ")


def test_four_bits_are_the_nearest_of_their_scale() -> None:
    """No worse than llama.cpp's; what they write is written again; zeros stay."""
    weight = torch.randn(20, 3 * GROUP - 5, generator=torch.Generator().manual_seed(0))
    whole, scale = int4_groups(weight)
    assert whole.dtype == torch.int8 and whole.min() >= -8 and whole.max() <= 7
    assert scale.shape == (20, 3) and scale.dtype == torch.float16
    error = (int4_floats(whole, scale) - weight).norm() / weight.norm()
    assert error < 0.09, "llama.cpp's Q4_0 has 0.09 on normal numbers"
    again = int4_groups(int4_floats(whole, scale))
    torch.testing.assert_close(int4_floats(*again), int4_floats(whole, scale), atol=1e-3, rtol=1e-3)
    assert not int4_floats(*int4_groups(torch.zeros(3, 40))).any()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda weight: weight, Kind.FLOAT32),
        (lambda weight: weight.half().float(), Kind.FLOAT16),
        (lambda weight: (weight * 1e-6).bfloat16().float(), Kind.BFLOAT16),
        (lambda weight: (weight * 9).round().clamp(-127, 127) * torch.tensor([[0.5], [0.25], [2.0]]), Kind.INT8),
    ],
)
def test_panels_hold_the_fewest_bytes_that_change_nothing(change, kind: Kind) -> None:
    weight = change(torch.randn(3, 34, generator=torch.Generator().manual_seed(1)))
    if kind is Kind.INT8:
        weight[:, 0] = 127 * torch.tensor([0.5, 0.25, 2.0])
    made, scale = packed(weight)
    assert torch.equal(made.float() if scale is None else made.float() * scale.float()[:, None], weight)
    laid: Panels = panels(weight)
    assert laid.kind is kind and (laid.rows, laid.columns) == (3, 34)
    filled = 34 if laid.scale is None else 64
    assert laid.weight.numel() * laid.weight.element_size() == 16 * filled * kind.bytes


def test_large_pages_hold_what_they_were_given() -> None:
    """One behind another on lines of the cache, also what is larger than a chunk; kept for as long as they are used."""
    pages, generator = LargePages(), torch.Generator().manual_seed(3)
    given = [torch.randn(size, generator=generator) for size in (5, 100_000, 9 << 20, 3)]
    given += [torch.arange(7, dtype=torch.uint8), torch.randn(4, 6).half()]
    kept = [pages.keep(each) for each in given]
    del pages
    for each, copy in zip(given, kept, strict=True):
        assert torch.equal(each, copy) and each.shape == copy.shape and copy.data_ptr() % 64 == 0
    places = sorted((copy.data_ptr(), copy.numel() * copy.element_size()) for copy in kept)
    assert all(first + size <= second for (first, size), (second, _) in zip(places, places[1:], strict=False))


def test_what_fewer_bits_cost() -> None:
    """The KL divergence from float32 that ``benchmarks/README.md`` states, on what emova-nano says of itself."""
    if STEP.prepare() is None:
        pytest.skip("no compiled code here")
    assistant = Assistant.from_pretrained("emova-nano")
    model = assistant.parts.model
    prompt = assistant.prompt([{"role": "user", "content": "What is in the picture?"}]).ids
    exact = Engine(model, EngineConfig(backend="torch"))
    _, written = engine_seconds(exact, Prompt(prompt), 60)
    for config, most, same in (
        (EngineConfig(), 1e-5, 1.0),
        (EngineConfig(int8=True), 0.003, 0.95),
        (EngineConfig(int4=True), 0.1, 0.9),
    ):
        cost = quality(exact, Engine(model, config), [*prompt, *written])
        assert cost["KL"] < most, (config, cost)
        assert cost["same best"] >= same, config
