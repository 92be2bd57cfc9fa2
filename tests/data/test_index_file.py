"""The index of one shard: what it holds, and that a damaged one is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bcaudio.data.index_file import RECORD, Entry, IndexFile, Written, index_path, pack_index, read_header


def written(i: int, **fields: object) -> Written:
    given = {"speaker": f"s{i}", "licence": "CC0" if i % 2 else "CC-BY", "duration_s": 1.5 * i, "num_codes": i, **fields}
    entry = Entry(key=f"key-{i}", corpus="c", split="train", language="zh", num_text_chars=2 * i, **given)
    return Written(entry, "somewhere", {"flac": (1024 * i + 512, 100 + i), "json": (2**40 + i, 7)}, crc32=2**32 - 1 - i)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "c-train-000000.idx"
    path.write_bytes(pack_index("c-train-000000.tar", "ab", 12345, {"f": "漢"}, [written(i) for i in range(5)]))
    return path


def test_a_record_is_64_bytes_at_a_multiple_of_64(index: Path) -> None:
    content = index.read_bytes()
    assert RECORD.itemsize == 64
    records_at = 64 + int.from_bytes(content[48:56], "little")
    assert records_at % 64 == 0
    tables = json.dumps({"corpus": ["c"], "split": ["train"], "language": ["zh"], "speaker": [f"s{i}" for i in range(5)]})
    assert len(content) == records_at + 5 * (64 + 8) + len(tables) + len(', "licence": ["CC-BY", "CC0"]')


def test_entries_and_members_come_back(index: Path) -> None:
    file = IndexFile(index)
    columns = file.columns()
    assert [columns.entry(i) for i in range(5)] == [written(i).entry for i in range(5)]
    assert [columns.members(i) for i in range(5)] == [written(i).members for i in range(5)]
    assert columns.records["crc32"].tolist() == [2**32 - 1 - i for i in range(5)]
    assert file.is_whole()


def test_header_sums_samples_and_seconds_by_licence_source_and_language(index: Path) -> None:
    header = read_header(index.with_suffix(".tar"))
    assert header["fingerprint"] == {"f": "漢"}
    assert header["totals"] == {
        "samples": 5,
        "seconds": 15.0,
        "num_codes": 10,
        "num_text_chars": 20,
        "licence": {"CC-BY": [3, 9.0], "CC0": [2, 6.0]},
        "source": {"somewhere": [5, 15.0]},
        "language": {"zh": [5, 15.0]},
    }


def test_an_empty_shard_and_a_large_header_have_an_index(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(pack_index("x.tar", "", 0, {"long": "f" * 10_000}, []))
    file = IndexFile(path)
    assert (file.num_samples, len(file.columns().records), file.header["fingerprint"]) == (0, 0, {"long": "f" * 10_000})


def test_what_does_not_fit_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.tar: sample 'key-1' does not fit its index .*smaller shards"):
        pack_index("x.tar", "", 0, {}, [written(0), written(1, num_codes=2**32)])


def test_damage_is_told_in_one_line(index: Path) -> None:
    whole = index.read_bytes()
    for cut in (0, 10, 16, 40, 63, 64, 100, 500, len(whole) - 400, len(whole) - 1):
        index.write_bytes(whole[:cut])
        with pytest.raises(
            ValueError, match=r"c-train-000000\.idx: (is no index of the format|ends at|is \d+ bytes long)"
        ) as error:
            IndexFile(index)
        assert "\n" not in str(error.value)
    index.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="the index is damaged; copy the shard again or make it again"):
        IndexFile(index)
    index.write_bytes(b"\x89PNG" + whole)
    with pytest.raises(ValueError, match=r"is no index of the format 'bcaudio-shard-2'; make the shard again"):
        IndexFile(index)


def test_no_flipped_byte_escapes_as_another_error(index: Path) -> None:
    whole, caught = bytearray(index.read_bytes()), 0
    for at in range(len(whole)):
        whole[at] ^= 0x80 if at % 2 else 0x04
        index.write_bytes(whole)
        whole[at] ^= 0x80 if at % 2 else 0x04
        try:
            file = IndexFile(index)
            assert not file.is_whole()
            for i in range(5):
                file.columns().entry(i)
        except ValueError as error:
            caught += "\n" not in str(error)
    assert caught > 300  # the header alone is longer


def test_an_index_of_the_old_format_names_the_remedy(tmp_path: Path) -> None:
    tar = tmp_path / "old-000000.tar"
    (tmp_path / "old-000000.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"old-000000\.index\.json: an index of an old format; make the shards again"):
        read_header(tar)


def test_equal_samples_give_equal_bytes(index: Path) -> None:
    again = pack_index("c-train-000000.tar", "ab", 12345, {"f": "漢"}, [written(i) for i in range(5)])
    assert again == index.read_bytes()
    assert index_path(index.with_suffix(".tar")) == index
    assert np.frombuffer(again, RECORD, 5, 64 + int.from_bytes(again[48:56], "little"))["duration"].tolist() == [
        0,
        15000,
        30000,
        45000,
        60000,
    ]
