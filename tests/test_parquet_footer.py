"""The footer of Parquet files, read by our own hand: what it says, and that no damaged one ends the process."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.parquet_footer import _check_pages, column_chunks

ROWS = np.linspace(-9, 0, 60, dtype=np.float32).reshape(12, 5)


def table():
    return pa.table(
        {
            "logits": list(ROWS),
            "input.ids": [list(range(i)) for i in range(12)],
            "nested": [{"a": [i], "b": None if i % 3 else str(i)} for i in range(12)],
            "flag": [i % 2 == 0 for i in range(12)],
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {}, {"row_group_size": 5}, {"row_group_size": 1, "compression": "none"}, {"write_page_index": True},
        {"use_dictionary": False, "write_statistics": False, "data_page_version": "2.0"}, {"version": "1.0"},
        {"write_page_checksum": True, "store_schema": False},
        {"sorting_columns": [pq.SortingColumn(3, descending=True, nulls_first=True)]},
    ],
)  # fmt: skip
def test_what_the_library_says(tmp_path, options):
    """Every column chunk, its path and its values, as pyarrow has them for sound files."""
    path = tmp_path / "a.parquet"
    pq.write_table(table(), path, **options)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    expected = [(g.column(j).path_in_schema, g.column(j).num_values) for g in groups for j in range(g.num_columns)]
    found = column_chunks(LocalFile(str(path)))
    assert [(".".join(chunk.path), chunk.values) for chunk in found] == expected
    assert not any(chunk.elsewhere for chunk in found)
    assert ("input.ids", "list", "element") in {chunk.path for chunk in found}


def test_footers_without_sense(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table(), path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    footer, end = whole[-8 - size : -8], whole[-8:]
    deep = b"\x4c" + b"\x1c" * 5000 + bytes(5001)
    for damaged in (b"", b"PAR1", whole[-7:], end, footer[:-2] + end, bytes(size) + end, b"\xff" * size + end,
                    deep + len(deep).to_bytes(4, "little") + b"PAR1", b"\x49\xfc" + footer[2:] + end):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(OSError, match="Parquet footer"):
            column_chunks(LocalFile(str(path)))


def test_no_damaged_footer_ends_the_process(tmp_path):
    """An optional value made a required one contradicts the histograms of its levels: pyarrow's own view of such a
    column chunk is an exception of C++ that nothing catches."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"logits": list(ROWS)}), path)
    code = """if True:
        import json, sys
        from kullback.evaluation.sources import open_logits
        path = sys.argv[1]
        whole = open(path, "rb").read()
        start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        outcomes = []
        for at in range(start, len(whole) - 8):
            if whole[at] == 2:
                with open(path, "wb") as file:
                    file.write(whole[:at] + b"\\0" + whole[at + 1 :])
                try:
                    open_logits(path).close()
                    outcomes.append("opened")
                except ValueError as error:
                    outcomes.append(str(error))
        print(json.dumps(outcomes))
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any("histogram" in outcome for outcome in json.loads(done.stdout))


@pytest.mark.parametrize(
    ("claimed", "refused"), [(1 << 30, True), ((1 << 31) - 1, True), (90, False), (1 << 25, False)]
)
def test_a_page_that_claims_more_than_its_chunk(tmp_path, claimed, refused):
    """The library asks for that memory before it looks at the page; found by fuzzing, 114 MiB for 3 kB."""
    zigzag, size = 2 * claimed, b""
    while zigzag > 127:
        size, zigzag = size + bytes([zigzag & 127 | 128]), zigzag >> 7
    path = tmp_path / "page"
    path.write_bytes(b"PAR1" + b"\x15\x00\x15" + size + bytes([zigzag]) + b"\x15\x14\x00" + bytes(10))
    metadata = {6: 100, 7: path.stat().st_size - 4, 9: 4}
    if refused:
        with pytest.raises(OSError, match=f"a page of {claimed} bytes in a column chunk of 100"):
            _check_pages(LocalFile(str(path)), metadata)
    else:
        _check_pages(LocalFile(str(path)), metadata)
