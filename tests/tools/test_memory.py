"""Memory that is let go of goes back to the system."""

import pytest

from benchmarks.common import resident
from tspin.tools import memory

KEPT, SIZE, NUMBER = 10, 3_000, 40_000  # one block in KEPT stays, bytes of a block, blocks


@pytest.mark.skipif(memory._trim() is None, reason="glibc's malloc_trim")
def test_what_lies_between_blocks_in_use_goes_back():
    blocks = [b"x" * SIZE for _ in range(NUMBER)]
    kept = blocks[::KEPT]
    del blocks
    before = resident("VmRSS")
    memory.give_back()
    assert before - resident("VmRSS") > 0.2 * SIZE * NUMBER
    assert len(kept) == NUMBER // KEPT


def test_where_the_library_has_no_such_function_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory.give_back()
    assert memory._trim() is None
