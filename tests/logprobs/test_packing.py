"""Streams by hand, their blocks by the law they stand for, and which layout is the cheaper."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import triplet

from tspin.logprobs.packing import Row, blocks, cheaper, pack

CPU = torch.device("cpu")
PAIR = ("annotated", "synthetic")
X = triplet("x", [1, 2, 3], [4, 5, 9], [6, 9])


def test_a_shared_stream_by_hand():
    """x = 1 2 3, y = 4 5 9, y' = 6 9: no last ids, y' begins at position 3 again, as y does."""
    stream = pack([X], PAIR, "shared", device=CPU)
    assert stream.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert stream.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert stream.rows == (Row(0, 3, 0, 0), Row(3, 2, 0, 3), Row(5, 1, 0, 3))
    assert stream.targets.tolist() == [4, 5, 9, 6, 9] and stream.lengths == (3, 2)
    assert stream.predictors.tolist() == [2, 3, 4, 2, 5]  # 3 predicts 4 and 6


def test_a_separate_stream_by_hand():
    stream = pack([X], PAIR, "separate", device=CPU)
    assert stream.input_ids.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 6]]
    assert stream.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert stream.rows == (Row(0, 5, 0, 0), Row(5, 4, 0, 0))
    assert stream.predictors.tolist() == [2, 3, 4, 7, 8]
    assert stream.targets.tolist() == [4, 5, 9, 6, 9] and stream.lengths == (3, 2)


@pytest.mark.parametrize("layout", ["shared", "separate"])
def test_a_response_of_one_token_feeds_none(layout):
    stream = pack([triplet("x", [1], [9])], ("annotated",), layout, device=CPU)
    assert stream.input_ids.tolist() == [[1]] and stream.rows == (Row(0, 1, 0, 0),)
    assert stream.predictors.tolist() == [0] and stream.targets.tolist() == [9]


def test_a_prompt_without_tokens_is_an_error():
    with pytest.raises(ValueError, match="prompt x has no tokens"):
        pack([triplet("x", [], [9])], ("annotated",), "shared", device=CPU)


lengths = st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=1, max_size=8)


@pytest.mark.slow
@settings(deadline=None)
@given(lengths, st.sampled_from(["shared", "separate"]), st.none() | st.integers(1, 50))
def test_blocks_let_every_position_see_its_past_and_nothing_else(shapes, layout, window):
    """The pairs the blocks make visible, against those of the definition, position by position."""
    triplets = [triplet(i, *([3] * n for n in shape)) for i, shape in enumerate(shapes)]
    stream = pack(triplets, PAIR, layout, device=CPU)
    made, order = blocks(stream.rows, device=CPU)
    seen, flat = {}, []
    for block in made:
        mask = block.mask(window)
        if mask is None:  # causal
            mask = torch.ones(block.queries.shape[1], block.keys.shape[1], dtype=torch.bool).tril()
            mask = mask.expand(len(block.queries), 1, *mask.shape)
        assert mask.any(-1).all()  # no softmax over nothing
        for queries, keys, visible in zip(block.queries, block.keys, mask[:, 0], strict=True):
            flat += [(int(q), frozenset(keys[v].tolist())) for q, v in
                     zip(queries, visible, strict=True)]  # fmt: skip
    seen = {position: flat[place] for position, place in enumerate(order.tolist())}
    for row in stream.rows:
        past = list(range(row.prefix_start, row.prefix_start + row.prefix))
        for position in range(row.start, row.start + row.length):
            past.append(position)
            assert seen[position] == (position, frozenset(past[-window:] if window else past))


def test_rows_of_like_length_share_a_block_and_others_do_not():
    """10 rows of 500 tokens and 10 of 5: padding the short ones would double the work."""
    rows = [Row(i * 500, 500, 0, 0) for i in range(10)]
    rows += [Row(5000 + i * 5, 5, 0, 0) for i in range(10)]
    made, _ = blocks(rows, device=CPU)
    assert [block.queries.shape for block in made] == [(10, 500), (10, 5)]


@pytest.mark.parametrize(
    ("prompt", "response", "layout"),
    [(512, 64, "shared"), (28, 126, "shared"), (1024, 128, "shared"), (1, 512, "separate")],
)
def test_long_prompts_are_shared_and_a_prompt_of_a_token_is_not(prompt, response, layout):
    x = triplet("x", [3] * prompt, *[[4] * response] * 3)
    roles = ("annotated", "synthetic", "proto")
    assert cheaper([x] * 4, roles, hidden_size=576) == layout
