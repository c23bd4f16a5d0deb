"""Conversion of a source to shards: counted skips with ids, an upper rate of them, copies removed, resumable.

State is kept in the set's folder after every shard: ``progress.json`` (drafts consumed, skips, shards),
``skipped.jsonl`` (id and reason of each record left out) and ``seen.u64`` (fingerprints of what was kept). A run that
goes on from there writes the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.core.writing import make_folder, write_text
from emova_data.records.records import BadRecord, Draft, Record, fingerprint
from emova_data.records.selection import SELECTED, Selection
from emova_data.records.shard_writer import Shard, write_json, write_shard

PROGRESS, SKIPPED, SEEN = "progress.json", "skipped.jsonl", "seen.u64"
_ANNOTATIONS = {".json", ".jsonl", ".parquet", ".txt", ".tsv", ".csv", ".scp", ".lst", ".trn"}
COPY = "a copy of another record"
"""The reason of records that are left out because they were there already."""


@dataclass(frozen=True)
class ConvertConfig:
    """How a conversion runs.

    Attributes:
        per_shard: records in a shard.
        max_skip_rate: the run ends with an error above this share of damaged records (copies do not count).
        min_tried: drafts before the rate is looked at.
        limit: drafts to read at most; 0 reads all.
        deduplicate: leave out records whose words and media are those of an earlier one.
    """

    per_shard: int = 1000
    max_skip_rate: float = 0.05
    min_tried: int = 100
    limit: int = 0
    deduplicate: bool = False


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion did, over all its runs."""

    tried: int
    records: int
    skipped: dict[str, int]
    shards: tuple[Shard, ...]
    finished: bool
    notes: dict[str, int] = field(default_factory=dict)
    """What records had to say, and how many said it."""


@dataclass
class _State:
    plan: str
    tried: int
    kept: int
    skipped: Counter[str]
    shards: list[Shard]
    skipped_lines: int
    finished: bool = False
    made_from: str = ""
    notes: Counter[str] = field(default_factory=Counter)
    units: str = ""
    refused: bool = False
    """The source had too much damage: when it is repaired, in its media perhaps, it is read from its beginning."""


def state_of_source(folder: Path, options: Mapping[str, object] = {}) -> str:
    """A digest of how a source is read, and of the names, sizes and times of its annotation files; not of its media,
    unless there is nothing else."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in _ANNOTATIONS] or files
    facts = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return hashlib.sha256(json.dumps([facts, dict(options)], sort_keys=True, default=str).encode()).hexdigest()


def _begin_again(folder: Path, shards: Sequence[Shard]) -> None:
    for name in (*(shard.name for shard in shards), SKIPPED, SEEN, PROGRESS):
        (folder / name).unlink(missing_ok=True)


def _read_state(folder: Path, plan: str, made_from: str) -> _State:
    try:
        raw = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _State(plan, 0, 0, Counter(), [], 0, made_from=made_from)
    except json.JSONDecodeError:
        raise InputError(f"{folder / PROGRESS}: damaged; delete the folder and convert again") from None
    if raw["plan"] != plan:
        raise InputError(f"{folder}: was converted with other settings; delete it or give another --out")
    shards = [Shard(**shard) for shard in raw["shards"]]
    before = raw.get("made_from", made_from)  # earlier versions did not keep it
    if before != made_from or raw.get("refused"):
        _begin_again(folder, shards)
        return _State(plan, 0, 0, Counter(), [], 0, made_from=made_from)
    skipped, notes = Counter(raw["skipped"]), Counter(raw.get("notes", {}))
    return _State(
        plan, raw["tried"], raw["kept"], skipped, shards, raw["skipped_lines"], raw["finished"], made_from, notes,
        raw.get("units", ""),
    )  # fmt: skip


def _cut(path: Path, lines: int) -> None:
    """Keep the first ``lines`` lines: what a killed run wrote after its last finished shard goes."""
    if path.is_file():
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        write_text(path, "".join(kept))


def _load_seen(path: Path) -> np.ndarray:
    return np.fromfile(path, "<u8") if path.is_file() else np.zeros(0, "<u8")


def convert(
    drafts: Iterable[Draft],
    folder: Path,
    name: str,
    *,
    split: str = "train",
    suffix: str = ".tar",
    config: ConvertConfig = ConvertConfig(),
    against: Sequence[Path] = (),
    select: Selection | None = None,
    made_from: str = "",
    units: str = "",
    build: Callable[[Iterable[Draft]], Iterable[tuple[str, Record | None, str | None]]] | None = None,
    report: Callable[[int, int], None] = lambda tried, skipped: None,
) -> ConvertResult:
    """Build all ``drafts`` and write ``{name}-{split}-{number}{suffix}`` into ``folder``; resumable.

    Args:
        suffix: ``.tar`` or, for text alone, ``.jsonl``.
        against: folders of other converted sets whose records count as copies; implies ``deduplicate``.
        select: what a record has to be to stay; what it leaves out is counted and listed, and is no damage.
        made_from: the state of the source (``state_of_source``); where it is another one, all is converted again.
        units: whose units the records hold (``emova.speech.tokenizer.units``), where they hold any.
        build: builds drafts, in order, to (id, record or None, reason); the default builds them here, one by one.
        report: called with the numbers of drafts tried and skipped.

    Raises:
        InputError: too many records are damaged, or the folder holds the result of other settings.
    """
    make_folder(folder)
    deduplicate = config.deduplicate or bool(against)
    others = sorted(other.name for other in against)
    chosen = [] if select is None else [asdict(select)]
    plan = json.dumps([name, split, suffix, config.per_shard, config.limit, deduplicate, others, *chosen])
    state = _read_state(folder, plan, made_from)
    state.units = units or state.units
    if state.finished:
        return _result(state)
    _cut(folder / SKIPPED, state.skipped_lines)
    kept = _load_seen(folder / SEEN)[: state.kept]
    kept.tofile(folder / SEEN)
    seen = set(kept.tolist())
    for other in against:
        seen.update(_load_seen(other / SEEN).tolist())
    pending: list[Record] = []
    fresh: list[int] = []
    left_out: list[dict[str, str]] = []
    done = state.tried

    def flush() -> None:
        if pending:
            path = folder / f"{name}-{split}-{len(state.shards):06d}{suffix}"
            state.shards.append(write_shard(path, pending, name, state.kept))
            state.kept += len(pending)
        with (folder / SKIPPED).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in left_out)
        with (folder / SEEN).open("ab") as file:
            np.asarray(fresh, "<u8").tofile(file)
        state.skipped_lines += len(left_out)
        pending.clear()
        left_out.clear()
        fresh.clear()
        shards = [asdict(shard) for shard in state.shards]
        counted = {"skipped": dict(state.skipped), "notes": dict(state.notes)}
        write_json(folder / PROGRESS, {**vars(state), **counted, "shards": shards})

    todo = itertools.islice(drafts, done, config.limit or None)
    for identity, record, reason in (build or _build_all)(todo):
        state.tried += 1
        if record is not None and select is not None:
            reason = select.reason(record)
        if record is not None and reason is None:
            mark = fingerprint(record)
            if deduplicate and mark in seen:
                reason = COPY
            else:
                if deduplicate:
                    seen.add(mark)
                fresh.append(mark)
                pending.append(record)
                state.notes.update(record.notes)
        if reason is not None:
            state.skipped[reason] += 1
            left_out.append({"id": identity, "reason": reason})
            _check_rate(state, config, folder, flush)
        report(state.tried, sum(state.skipped.values()))
        if len(pending) >= config.per_shard:
            flush()
    if not state.kept and not pending:
        state.refused = True
        flush()
        raise InputError(
            f"{name}: no record could be converted; {_most(state)} (see {folder / SKIPPED}); repair the source, and "
            "convert it again"
        )
    state.finished = True
    flush()
    return _result(state)


def build_one(draft: Draft) -> tuple[str, Record | None, str | None]:
    """(id, record, None), or (id, None, the reason why it is left out)."""
    try:
        return draft.id, draft.build(), None
    except BadRecord as error:
        return draft.id, None, str(error)
    except InputError:
        raise  # the user's to repair, not the record's fault
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        # Foreign records break the expected form in more ways than can be named.
        return draft.id, None, "not of the expected form"


def _build_all(drafts: Iterable[Draft]) -> Iterable[tuple[str, Record | None, str | None]]:
    return map(build_one, drafts)


def _damaged(state: _State) -> int:
    return sum(count for reason, count in state.skipped.items() if reason != COPY and not reason.startswith(SELECTED))


def _most(state: _State) -> str:
    if not state.skipped:
        return "the source holds no records"
    reason, count = state.skipped.most_common(1)[0]
    return f"{count} of {state.tried}: {reason}"


def _check_rate(state: _State, config: ConvertConfig, folder: Path, flush: Callable[[], None]) -> None:
    if state.tried >= config.min_tried and _damaged(state) > config.max_skip_rate * state.tried:
        state.refused = True
        flush()
        raise InputError(
            f"{folder.name}: {_damaged(state)} of {state.tried} records are damaged, most often {_most(state)}; "
            f"see {folder / SKIPPED}, repair the source or raise --max-skip-rate"
        )


def _result(state: _State) -> ConvertResult:
    shards = tuple(state.shards)
    return ConvertResult(state.tried, state.kept, dict(state.skipped), shards, state.finished, dict(state.notes))


def set_statistics(folder: Path) -> dict[str, object]:
    """Counts of a converted set from its ``progress.json``. Raises: InputError."""
    try:
        raw = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise InputError(f"{folder}: not converted yet; run `emova data convert`") from None
    return {
        "records": raw["kept"], "tried": raw["tried"], "skipped": raw["skipped"], "finished": raw["finished"],
        "shards": len(raw["shards"]), "bytes": sum(shard["bytes"] for shard in raw["shards"]),
    }  # fmt: skip
