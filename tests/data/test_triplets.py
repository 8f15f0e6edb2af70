"""Join, order, batches and tensors of triplets, with literal values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import random_triplets, triplet

from tspin.data.triplets import collate, epoch, join, micro_batches, num_tokens


def prompt_row(i):
    return {"id": i, "split": "train", "prompt_ids": [1, 2], "annotated_ids": [3, 9]}


def test_join_by_id():
    (row,) = join([prompt_row("a")], 1, {"a": [4, 9]}, {"a": [5]})
    assert row == triplet("a", [1, 2], [3, 9], [4, 9], [5])


def test_join_without_samples_is_what_sft_reads():
    (row,) = join([prompt_row("a")], 1)
    assert row.responses == {"annotated": [3, 9]}


def test_join_names_a_prompt_without_a_response():
    with pytest.raises(ValueError, match="prompt b has no synthetic response"):
        join([prompt_row("a"), prompt_row("b")], 1, {"a": [4]}, {"a": [5], "b": [5]})


def test_collate_literally():
    """Role-major rows, prompt then response, padded on the right, masks by length."""
    batch = collate(
        [triplet("a", [1, 2], [3, 9], [4]), triplet("b", [1], [9], [7, 7, 9])],
        ("annotated", "synthetic"),
        pad_id=9,  # EOS: as pad it must not count, as token it must
    )
    assert batch.input_ids.tolist() == [[1, 2, 3, 9], [1, 9, 9, 9], [1, 2, 4, 9], [1, 7, 7, 9]]
    assert batch.attention_mask.int().tolist() == [
        [1, 1, 1, 1],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]
    assert batch.response_mask.int().tolist() == [
        [0, 0, 1, 1],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 1, 1, 1],
    ]


def test_tokens_are_counted_without_padding():
    rows = [triplet("a", [1, 2], [3, 9], [4]), triplet("b", [1], [9], [7, 7, 9])]
    assert num_tokens(rows, ("annotated", "synthetic")) == 4 + 3 + 2 + 4
    assert num_tokens(rows, ("annotated",)) == 4 + 2


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_holds_every_triplet_once_in_an_order_of_its_own(num, batch_size, number):
    rows = random_triplets(num)
    batches = epoch(rows, batch_size=batch_size, seed=0, t=1, epoch=number)
    assert sorted(int(x.id) for b in batches for x in b) == list(range(num))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert batches == epoch(rows, batch_size=batch_size, seed=0, t=1, epoch=number)


def test_orders_differ_by_seed_iteration_and_epoch():
    rows = random_triplets(20)
    orders = [
        [x.id for b in epoch(rows, batch_size=4, seed=s, t=t, epoch=e) for x in b]
        for s, t, e in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len(set(map(tuple, orders))) == 4


@given(st.integers(1, 12), st.integers(1, 5))
def test_micro_batches_cut_a_batch_whole_and_longest_first(num, size):
    rows = random_triplets(num)
    cut = list(micro_batches(rows, ("annotated",), size=size))
    flat = [x for part in cut for x in part]
    assert sorted(x.id for x in flat) == sorted(x.id for x in rows)
    lengths = [x.length(("annotated",)) for x in flat]
    assert lengths == sorted(lengths, reverse=True)
    assert cut == list(micro_batches(rows[::-1], ("annotated",), size=size))


def test_ids_beyond_int32_are_not_needed_and_tensors_are_long():
    batch = collate([triplet("a", [1], [2])], ("annotated",), pad_id=0)
    assert batch.input_ids.dtype == torch.long and batch.response_mask.dtype == torch.bool
