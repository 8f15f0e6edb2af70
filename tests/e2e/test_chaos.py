"""A few faults of chaos.py, a fixed handful; `make chaos` tries them all."""

import pyarrow as pa
import pytest
from e2e import chaos

from tspin.runs.artifacts import ANSWERS
from tspin.tools.files import SHA256, Damaged, check_sums, read_json, write_json, write_sums
from tspin.tools.parquet import read_rows, write_rows


@pytest.fixture(scope="module")
def place(forker, whole, tmp_path_factory):
    return chaos.ground(tmp_path_factory.mktemp("chaos"), forker, whole)


FAULTS = ("killed_outside", "damaged_file", "clock", "deleted_checkpoint", "changed_data")


@pytest.mark.parametrize("number, name", enumerate(FAULTS), ids=FAULTS)
def test_survived(place, number, name):
    """Kills inside are in test_resume.py, full and read-only disks in test_disks.py, two owners in
    test_concurrent.py."""
    print(getattr(chaos, name)(place(number, chaos.random.Random(name))))  # noqa: T201  # what


def test_a_plan_has_every_kind():
    kinds = chaos.Counter(chaos.plan(chaos.NUMBER, chaos.random.Random(0)))
    assert kinds == chaos.FAULTS and kinds[chaos.killed_inside] + kinds[chaos.killed_outside] == 100
    assert len(chaos.plan(3, chaos.random.Random(0))) == 3


# --- what finds a changed byte -------------------------------------------------------------------


@pytest.mark.slow
def test_every_byte_of_a_small_table_counts_or_does_not_matter(tmp_path):
    """One bit of each in turn: refused by name, or read as it was."""
    file = tmp_path / "rows.parquet"
    schema = pa.schema([("id", pa.string()), ("ids", pa.list_(pa.int32())), ("ok", pa.bool_())])
    write_rows(file, [{"id": "a", "ids": [1, 2], "ok": True}], schema)
    right, whole = read_rows(file), file.read_bytes()
    found = 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert read_rows(file) == right, at
        except Damaged as error:
            assert str(file) in str(error) and "the same command" in str(error)
            found += 1
    assert found > len(whole) // 3


def test_json_carries_its_digest(tmp_path):
    file = tmp_path / "eval.json"
    write_json(file, {"value": 0.25, "of": {"b": [1], "a": None}})
    assert read_json(file) == {"value": 0.25, "of": {"b": [1], "a": None}}
    assert SHA256 in file.read_text()
    file.write_text(file.read_text().replace("0.25", "0.35"))
    with pytest.raises(Damaged, match=r"eval.json is damaged .* done.json"):
        read_json(file)
    file.write_text('{"value": 0.35}')  # written by a hand or an older version
    assert read_json(file) == {"value": 0.35}


def test_a_damaged_file_of_several_names_says_so(tmp_path):
    file = tmp_path / "part-00000.parquet"
    write_rows(file, [], ANSWERS)
    (tmp_path / "linked").hardlink_to(file)
    with file.open("r+b") as opened:
        opened.truncate(20)
    with pytest.raises(Damaged, match="under all its 2 names"):
        read_rows(file)


def test_sums_name_the_file_that_changed(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    check_sums(tmp_path)  # none there: of another model
    write_sums(tmp_path)
    check_sums(tmp_path)
    (tmp_path / "model.safetensors").write_text("model,safetensors")
    with pytest.raises(Damaged, match="model.safetensors.* is not what tspin.sha256sums names"):
        check_sums(tmp_path)
