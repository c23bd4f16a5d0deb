"""Rows of foreign files: a slip costs one record, an encoding is told, and nothing is lost uncounted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emova.core.errors import InputError
from emova_data.sources.converters import rows
from emova_data.sources.converters.rows import UNREADABLE, array_rows, line_rows

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)


@settings(max_examples=150, deadline=None)
@given(objects=OBJECTS, indent=st.sampled_from([None, 1, "\t"]), plain=st.booleans(), block=st.integers(4, 60))
def test_an_array_is_read_alike_in_blocks_of_any_size(tmp_path_factory, objects, indent, plain, block) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.json"
    path.write_text(
        json.dumps(objects, indent=indent, ensure_ascii=not plain), encoding="utf-8", errors="surrogatepass"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BLOCK", block)
        assert list(array_rows(path)) == objects


SLIPS = {
    "a raw line break in a string": b'{"a": "x\ny", "b": [1]}',
    "a missing colon": b'{"a" 1, "b": {"c": 2}}',
    "a trailing comma": b'{"a": 1,}',
    "bytes of another encoding": '{"a": "caf\xe9"}'.encode("latin-1"),
    "half a surrogate pair": b'{"a": "\\ud83d"}',
    "a word": b'{"a": NaNa}',
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_slip_costs_one_record(tmp_path: Path, slip: bytes) -> None:
    good = b'{"id": 1}'
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[\n" + b",\n".join([good, slip, good]) + b"\n]\n")
    assert list(array_rows(tmp_path / "a.json")) == [{"id": 1}, None, {"id": 1}]
    if b"\n" not in slip:
        (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([good, slip, good]))
        assert list(line_rows(tmp_path / "a.jsonl")) == [{"id": 1}, None, {"id": 1}]


@pytest.mark.parametrize("slip", [b'{"a": "x" y"}', b'{"a": 1} {"b": 2}', b"word"], ids=["quote", "comma", "word"])
def test_a_slip_that_hides_the_next_record_names_its_line(tmp_path: Path, slip: bytes) -> None:
    (tmp_path / "a.json").write_bytes(b'[\n{"id": 1},\n' + slip + b',\n{"id": "2"}\n]')
    with pytest.raises(InputError, match=r"a\.json, line [3-5]: a slip"):
        list(array_rows(tmp_path / "a.json"))


def test_a_file_that_is_cut_short_ends_in_a_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"id": 1}, {"id": ')
    assert list(array_rows(tmp_path / "a.json")) == [{"id": 1}, None]


def test_other_line_separators_stay_in_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "x\u2028y\x85z"}\n{"a": 2}', encoding="utf-8")
    assert list(line_rows(tmp_path / "a.jsonl")) == [{"a": "x\u2028y\x85z"}, {"a": 2}]


def test_the_handed_files_lose_what_is_damaged_alone() -> None:
    name = "share-captioner_coco_lcs_sam_1246k_1107.json"
    found = list(array_rows(CASES / "llava_newline_in_string" / name))
    assert len(found) == 500 and found.count(None) == 1
    latin = list(array_rows(CASES / "llava_latin1" / name))
    assert "not in UTF-8" in UNREADABLE and None in latin and "\ufffd" not in json.dumps(latin, ensure_ascii=False)
    assert None not in list(line_rows(CASES / "jsonl_bom" / "image_conversations" / "x.jsonl"))
