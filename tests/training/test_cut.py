"""What becomes of a cut that does not fit into memory."""

from support.tiny import triplet

from tspin.training.cut import Cut

ROLES = ("annotated", "synthetic")
BATCH = [triplet(i, [3] * 4, [5] * 3, [6] * 3) for i in range(6)]  # 2 (4 + 3) = 14 tokens each


def test_half_of_the_triplets_that_were_together():
    """6 of at most 8 were: 3, then 1, and one alone is not cut."""
    cuts = [Cut(8, None)]
    while (smaller := cuts[-1].halved(BATCH, ROLES)) is not None:
        cuts.append(smaller)
    assert cuts == [Cut(8, None), Cut(3, None), Cut(1, None)]


def test_half_of_the_tokens_until_each_triplet_is_alone():
    """84 tokens in all, 14 each: 42, 21, 10, where a triplet goes alone already."""
    cuts = [Cut(8, 1000)]
    while (smaller := cuts[-1].halved(BATCH, ROLES)) is not None:
        cuts.append(smaller)
    assert [cut.max_tokens for cut in cuts] == [1000, 42, 21, 10]
    assert [len(part) for part in cuts[1].micro_batches(BATCH, ROLES)] == [3, 3]
    assert [len(part) for part in cuts[3].micro_batches(BATCH, ROLES)] == [1] * 6
