"""What a curriculum has chosen in an iteration, and what that has saved. No torch."""

from __future__ import annotations

from tspin.runs.artifacts import Iteration
from tspin.tools.parquet import each_row


def facts(out: Iteration) -> dict[str, float]:
    """Numbers of an iteration in which some prompts were chosen; none where all were.

    share_chosen               of the training prompts
    tokens_sampled             of the new y' to them, EOS included
    tokens_kept                of the y' that stayed: about what sampling them anew had taken
    value_chosen, value_kept   mean of what the rows were chosen by, as far as it is known
    """
    if not out.choices.exists():
        return {}
    values: dict[bool, list[float]] = {True: [], False: []}
    is_chosen = {}
    for row in each_row(out.choices, "id", "chosen", "value"):
        is_chosen[row["id"]] = row["chosen"]
        if row["value"] is not None:
            values[row["chosen"]].append(row["value"])
    tokens = {True: 0, False: 0}
    for row in out.synthetic.each("id", "num_tokens"):
        if row["id"] in is_chosen:  # held-out prompts get a new y' anyway
            tokens[is_chosen[row["id"]]] += row["num_tokens"]
    means = {
        name: sum(values[of]) / len(values[of])
        for name, of in (("value_chosen", True), ("value_kept", False))
        if values[of]
    }
    share = sum(is_chosen.values()) / len(is_chosen)
    return {
        "share_chosen": share,
        "tokens_sampled": tokens[True],
        "tokens_kept": tokens[False],
        **means,
    }
