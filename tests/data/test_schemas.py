"""Rows as public data sets have them: what each column means, and that none goes unsaid."""

import pytest

from tspin.data import schemas
from tspin.data.cells import BadRow


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


ROUND = chat(("user", "x"), ("assistant", "y"))
LATER = chat(("user", "x2"), ("assistant", "y2"))
FIRST, SECOND = ("x", "y"), ("x2", "y2")


def read(row, *, first_only=False):
    return schemas.dialogue(row, first_only=first_only)


CONVERSATIONS = {
    "messages": ({"messages": ROUND + LATER}, (None, (FIRST, SECOND))),
    "conversation": ({"conversation": ROUND}, (None, (FIRST,))),
    "dialog": ({"dialog": ROUND}, (None, (FIRST,))),
    "a greeting": (
        {"messages": chat(("assistant", "hello")) + ROUND + LATER},
        (None, (FIRST, SECOND)),
    ),
    "an unanswered question": ({"messages": ROUND + LATER[:1]}, (None, (FIRST,))),
    "roles of others": (
        {
            "messages": chat(
                ("developer", "s"), ("Human", "x"), ("model", "y"), ("user", "x2"), ("bot", "y2")
            )
        },
        ("s", (FIRST, SECOND)),
    ),
    "role and value": (
        {"messages": [{"role": "user", "value": "x"}, {"role": "gpt", "value": "y"}]},
        (None, (FIRST,)),
    ),
    "parts": (
        {
            "messages": chat(
                ("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                ("assistant", ["y", {"type": "output_text", "text": "z"}]),
            )
        },
        (None, (("ab", "yz"),)),
    ),
    "chosen text behind turns": (
        {"prompt": [*ROUND, LATER[0]], "chosen": "y2", "rejected": "z"},
        (None, (FIRST, SECOND)),
    ),
    "an answer as a turn": (
        {"prompt": "x", "completion": chat(("assistant", "y"))},
        (None, (FIRST,)),
    ),
    "chosen that has the prompt": ({"prompt": ROUND[:1], "chosen": ROUND}, (None, (FIRST,))),
    "two system columns": (
        {"system": "s", "system_prompt": "s", "prompt": "x", "response": "y"},
        ("s", (FIRST,)),
    ),
}


@pytest.mark.parametrize("row, expected", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversations(row, expected):
    whole = read(row)
    assert (whole.system, whole.rounds) == expected
    assert set(whole.unused) <= {"rejected"}
    assert read(row, first_only=True).rounds == expected[1][:1]


COLUMNS = {  # data set that has them -> (row, prompt)
    "alpaca": ({"instruction": "a", "input": "b", "output": "y"}, "a\n\nb"),
    "dolly": ({"instruction": "a", "context": "b", "response": "y"}, "a\n\nb"),
    "LLaMA-Factory": ({"prompt": "a", "query": "b", "response": "y"}, "a\n\nb"),
    "GSM8K": ({"question": "a", "answer": "y"}, "a"),
    "MetaMath": ({"query": "a", "response": "y"}, "a"),
    "OpenOrca": ({"system_prompt": "", "question": "a", "response": "y"}, "a"),
    "input alone": ({"input": "a", "output": "y"}, "a"),
    "prompt and input": ({"prompt": "a", "input": "b", "response": "y"}, "a\n\nb"),
    "all": (
        {"prompt": "a", "input": "b", "query": "c", "context": "d", "response": "y"},
        "a\n\nb\n\nc\n\nd",
    ),
    "empty second answer": ({"prompt": "a", "response": "", "completion": "y"}, "a"),
}


@pytest.mark.parametrize("row, prompt", COLUMNS.values(), ids=COLUMNS)
def test_columns(row, prompt):
    whole = read(row)
    assert whole.rounds == ((prompt, "y"),)
    assert set(whole.unused) <= {"response", "system_prompt"}


def test_a_history_of_pairs_or_of_turns_comes_before_the_prompt():
    row = {"instruction": "x2", "input": "i", "output": "y2"}
    for history in ([["x", "y"]], ROUND):
        whole = read(row | {"history": history})
        assert whole.rounds == (FIRST, ("x2\n\ni", "y2")) and whole.unused == ()
        assert read(row | {"history": history}, first_only=True).rounds == (FIRST,)
    for history in (None, [], ""):
        assert read(row | {"history": history}).rounds == (("x2\n\ni", "y2"),)


@pytest.mark.parametrize("label", [False, "false", "False"])
@pytest.mark.parametrize("row", [{"prompt": "x", "completion": "y"}, {"messages": ROUND}])
def test_a_response_that_its_label_refuses_is_none(row, label):
    assert read(row | {"label": label}) is None
    assert read(row | {"kto_tag": label}) is None


@pytest.mark.parametrize("label", [True, "true", None])
def test_a_label_that_is_true_or_missing_changes_nothing(label):
    assert read({"prompt": "x", "completion": "y", "label": label}).unused == ()


def test_a_label_of_another_kind_is_a_column_like_others():
    for label in (2, "positive", 0.5):
        assert read({"prompt": "x", "completion": "y", "label": label}).unused == ("label",)


UNUSED = {
    "of the row": (
        {"prompt": "other", "prompt_id": "7", "score": 1, "none": None, "messages": ROUND},
        ("prompt", "prompt_id", "score"),
    ),
    "a prompt that is the first turn is used": ({"prompt": "x", "messages": ROUND}, ()),
    "of the turns": (
        {"messages": [ROUND[0], {**ROUND[1], "weight": 0, "name": None}]},
        ("messages[].weight",),
    ),
    "a system message beside that of the turns": (
        {"system": "t", "messages": chat(("system", "s")) + ROUND},
        ("system",),
    ),
    "a history beside turns": ({"history": [["a", "b"]], "messages": ROUND}, ("history",)),
    "alpaca's filled template": (
        {"instruction": "x", "output": "y", "prompt": "all of it", "text": "all of it"},
        ("prompt", "text"),
    ),
}


@pytest.mark.parametrize("row, unused", UNUSED.values(), ids=UNUSED)
def test_a_column_that_is_not_read_is_named(row, unused):
    assert read(row).unused == unused


REFUSED = {
    "two answers": (
        {"prompt": "x", "response": "y", "completion": "z"},
        "it has response and completion, and one of them is the annotated response: remove",
    ),
    "two prompts": (
        {"prompt": "x", "question": "x", "response": "y"},
        "it has prompt and question, and one of them is the prompt: remove or rename",
    ),
    "text alone": ({"text": "x y"}, "text does not say where its prompt ends: split it"),
    "chosen alone": ({"chosen": "Human: x", "rejected": "z"}, "chosen is a text without a prompt"),
    "a number as label": (
        {"prompt": "x", "completion": "y", "label": 0},
        "label=0 may say whether the response is a good one: write true or false, or rename",
    ),
    "an image": (
        {"messages": chat(("user", [{"type": "image_url", "image_url": "u"}]))},
        "turn 1 of messages has a part of type 'image_url'; only text is read",
    ),
    "a tool": (
        {"messages": [*ROUND, {"role": "tool", "content": "t"}]},
        "turn 3 of messages has role='tool', which is none of",
    ),
    "two answers in a row": (
        {"messages": [*ROUND, ROUND[1]]},
        "turn 3 of messages is a second assistant turn in a row",
    ),
    "two questions in a row": (
        {"messages": [*ROUND, LATER[0], *LATER]},
        "no assistant turn directly after turn 3 of messages",
    ),
    "a late system message": (
        {"messages": [*ROUND, *chat(("system", "s")), *LATER]},
        "turn 3 of messages is a system message behind the first round",
    ),
    "a history of texts": (
        {"prompt": "x", "response": "y", "history": ["a", "b"]},
        r"round 1 of history is no pair \[user, assistant\]",
    ),
    "a history with an empty answer": (
        {"prompt": "x", "response": "y", "history": [["a", ""]]},
        r"turn 2 of history \+ prompt \+ response \(assistant\) is empty",
    ),
    "a history as text": (
        {"prompt": "x", "response": "y", "history": "a"},
        "history is not a list of rounds but str",
    ),
    "a context that is no text": (
        {"question": "x", "context": ["c"], "answer": "y"},
        "context is not a string but list",
    ),
}


@pytest.mark.parametrize("row, reason", REFUSED.values(), ids=REFUSED)
def test_refused(row, reason):
    with pytest.raises(BadRow, match=reason):
        read(row)


def test_the_first_round_counts_whatever_comes_later():
    for name in ("a tool", "two answers in a row", "two questions in a row"):
        assert read(REFUSED[name][0], first_only=True).rounds == (FIRST,)
