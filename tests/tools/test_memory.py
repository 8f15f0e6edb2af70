"""Memory that is let go of goes back to the system."""

import random

import pytest

from tspin.tools import memory

KEPT, SIZE, NUMBER = 10, 3_000, 40_000  # one block in KEPT stays, bytes of a block, blocks


def resident():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(memory._trim() is None, reason="glibc's malloc_trim")
def test_what_lies_between_blocks_in_use_goes_back():
    blocks = [bytes(random.Random(0).randbytes(SIZE)) for _ in range(NUMBER)]
    random.Random(0).shuffle(blocks)
    kept = blocks[::KEPT]
    del blocks
    before = resident()
    memory.give_back()
    assert before - resident() > 0.2 * SIZE * NUMBER
    assert len(kept) == NUMBER // KEPT


def test_where_the_library_has_no_such_function_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._trim.cache_clear()
    memory.give_back()
    assert memory._trim() is None
    memory._trim.cache_clear()
