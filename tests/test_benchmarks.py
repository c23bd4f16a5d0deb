"""Every benchmark runs on tiny parts and leaves a table, JSON and a figure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from emova.cli.main import Parser
from emova_bench.cli import BENCHMARKS, register

SMALL = {
    "decode": ["--tokens", "4"],
    "storage": [],
    "runtimes": ["--only", "torch", "convolution.c"],  # what others compile takes minutes
    "vocoder": ["--data", "no-such-folder", "--sentences", "1"],
    "latency": ["--seconds", "0.5"],
    "long_speech": [],
    "flat": ["--seconds", "4"],
    "codec": ["--seconds", "3"],
    "load": ["--sessions", "1", "2"],
    "batching": [],
    "larger": [],
    "training": [],
}


def test_each_benchmark_is_tried() -> None:
    # Below, in tests/train, or by hand.
    elsewhere = {"soak", "loader", "paradigms", "labelled", "codecs", "rates", "smollm", "llamacpp"}
    assert set(SMALL) | elsewhere == set(BENCHMARKS)


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name, tiny_checkpoint, tmp_path, capsys) -> None:
    parser = Parser()
    register(parser)
    options = [str(tiny_checkpoint), "--output", str(tmp_path), "--quick", "--threads", "1", *SMALL[name]]
    arguments = parser.parse_args([name, *options])
    assert arguments.run(arguments) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["benchmark"] == name and content["rows"] and content["options"]["repeats"] == "1"
    assert content["machine"]["threads"] == 1
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert all(column in printed for column in content["rows"][0])


def test_latency_with_another_codec(tiny_checkpoint, tmp_path, capsys) -> None:
    """Its steps are measured with the codec that is named; one that does not fit the vocabulary is one line."""
    from emova.core.errors import InputError
    from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
    from emova_bench.latency import STEPS, main
    from tests.fixtures_codecs import EARS, FLOW, VQ, make_vq

    ears = make_vq(replace(VQ, encoder=replace(VQ.encoder, codes=4096)))
    voice = FlowHiFTDetokenizer(replace(FLOW, units=replace(FLOW.units, codes=4096)))  # both at 12.5 units a second
    for name, part in (("ears", ears), ("voice", voice), ("few", EARS["kmeans"]())):
        part.eval().save_pretrained(tmp_path / name)  # type: ignore[operator]
    given = [str(tiny_checkpoint), "--output", str(tmp_path), "--quick", "--threads", "1", "--seconds", "0.5"]
    codec = ["--tokenizer", str(tmp_path / "ears"), "--detokenizer", str(tmp_path / "voice")]
    main([*given, *codec, "--ratio", "2", "8"])
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert len(rows) == 4 and all(row[f"T_{step}"] >= 0 for row in rows for step in STEPS)
    assert all(row["median ms"] == pytest.approx(sum(row[f"T_{step}"] for step in STEPS)) for row in rows)
    codec[1] = str(tmp_path / "few")
    with pytest.raises(InputError, match="^--other-codec: 32 units heard and 4096 said, 25 and 12.5 a second; give tw"):
        main([*given, *codec])


# --- soak -------------------------------------------------------------------------------------------------------------
def soaked(**changes):
    """The soak's options, what its clients saw, and what the server held: all well but for ``changes``."""
    import argparse

    from emova_bench.soak.clients import MIX, Client, Health, Tally
    from emova_bench.soak.process import Held

    options = argparse.Namespace(max_rss=100.0, max_threads=4, max_fds=8)
    kinds: list[type[Client] | type[Health]] = [*MIX, Health]
    tallies = {each.kind: Tally([1.0]) for each in kinds}
    held: dict[str, Any] = {"rss_mb": 800.0, "threads": 26, "descriptors": 7}
    more = {name: held[name] + changes.pop(name, 0) for name in held}
    ended = changes.pop("ended", True)
    for kind, tally in changes.items():
        tallies[kind] = tally
    return options, tallies, Held(**held), Held(**more), ended


def test_what_a_soak_finds() -> None:
    from collections import Counter

    from emova_bench.soak.clients import Tally
    from emova_bench.soak.program import faults

    assert faults(*soaked()) == []
    assert faults(*soaked(rss_mb=99.0, threads=4, descriptors=8)) == []
    assert faults(*soaked(chat=Tally([1.0], busy=1000))) == [], "to be told when to come again is an answer"
    unlucky = {"slow reader": Tally([], 0, Counter({"OSError": 9})), "half-open": Tally()}
    assert faults(*soaked(**unlucky)) == [], "who misbehaves may be refused"
    for name in ("rss_mb", "threads", "descriptors"):
        assert name in faults(*soaked(**{name: 101}))[0]
    for kind in ("chat", "speech", "transcription", "realtime", "health"):
        assert "status 500" in faults(*soaked(**{kind: Tally([1.0], 0, Counter({"status 500": 1}))}))[0]
        assert "none was answered" in faults(*soaked(**{kind: Tally([], busy=9)}))[0]
    assert "did not end" in faults(*soaked(ended=False))[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_soak(tmp_path, capsys) -> None:
    """The real server and all kinds of clients, for seconds. It holds more than it may, since it may hold nothing."""
    from emova_bench.soak.program import main

    pytest.importorskip("fastapi")
    options = ["--output", str(tmp_path), "--quick", "--max-rss", "300", "--max-fds", "-1000"]
    with pytest.raises(SystemExit, match="soak: descriptors: [0-9]+ before, [0-9]+ after, -1000 more were allowed$"):
        main(options)
    content = json.loads((tmp_path / "soak.json").read_text())
    done = {row["clients"]: row["done"] for row in content["rows"]}
    assert all(done[kind] for kind in ("chat", "speech", "transcription", "realtime", "health")), done
    assert "file descriptors" in capsys.readouterr().out
