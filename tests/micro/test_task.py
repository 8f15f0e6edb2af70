"""The micro task, its tokenizer, the shipped policies and the command that rebuilds them."""

import itertools
import math
import re

import pytest
import torch
from transformers import AutoTokenizer

from tspin import micro
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.micro import build, figures, splits, task, tokenizer, training
from tspin.micro.__main__ import main

TRICKY = ["", " ", "zimom", " lead", "a\r\n\tb", "Caf\u00e9 \u65e5\u672c \U0001f600 e\u0301", "the"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Rounding, and so the weights, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tok():
    return AutoTokenizer.from_pretrained(micro.folder("warm"))


@pytest.fixture(scope="module", params=["base", "warm"])
def shipped(request):
    return request.param, training.load(micro.folder(request.param))


# The task


def key(content):
    return content if isinstance(content, str) else frozenset(content)


def test_the_splits_share_no_content_and_together_hold_all():
    """5 x 21 x 5 + 21 x 5 x 21 = 2730 words of three letters, and so on; 90 choose 3 sets."""
    for kind, total in (("word", 2_730 + 22_050 + 286_650), ("numbers", math.comb(90, 3))):
        held = {s: {key(content) for content in task._contents(kind)[s]} for s in splits.SPLITS}
        assert sum(map(len, held.values())) == total
        assert len(set().union(*held.values())) == total
        for split, percent in splits.SPLITS.items():
            assert len(held[split]) == pytest.approx(total * percent / 100, rel=0.05)


def test_the_splits_share_no_prompt():
    prompts = {split: [p for p, _ in task.pairs(split, 4_000, 0)] for split in splits.SPLITS}
    assert len(set().union(*prompts.values())) == sum(map(len, prompts.values()))
    for split, texts in prompts.items():
        assert {task.split_of(task.parse(text)[1]) for text in texts} == {split}


def test_the_order_of_the_numbers_does_not_change_the_split():
    assert len({task.split_of(order) for order in itertools.permutations((12, 45, 78))}) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_lists_are_nested_balanced_and_unique(seed):
    long = task.pairs("train", 1024, seed)
    assert task.pairs("train", 512, seed) == long[:512]
    assert len({prompt for prompt, _ in long}) == 1024
    names = [task.parse(prompt)[0].name for prompt, _ in long]
    assert {names.count(family.name) for family in task.FAMILIES} == {128}


def test_another_seed_gives_another_list():
    assert task.pairs("train", 16, 0) != task.pairs("train", 16, 1)


def test_a_split_gives_all_it_holds_and_no_more():
    n = task.num_available("validation")
    assert len({prompt for prompt, _ in task.pairs("validation", n, 0)}) == n
    with pytest.raises(ValueError, match=f"n={n + 1} .*'validation'.*{n}"):
        task.pairs("validation", n + 1, 0)
    with pytest.raises(ValueError, match="'dev'.*pretrain, warm, train, validation, test"):
        task.pairs("dev", 1, 0)


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        ('Reverse the word "zimom".', "momiz", "zimom"),
        ('Write "ace" backwards.', "eca", "ace"),
        ('Sort the letters of "zimom".', "immoz", "zommi"),
        ('Put the letters of "bada" in order.', "aabd", "abd"),
        ('Write "zimom" in capitals.', "ZIMOM", "Zimom"),
        ('Capitalize every letter of "ace".', "ACE", "ace"),
        ('Remove the first letter of "zimom".', "imom", "zimo"),
        ('Write "ace" without its first letter.', "ce", "ac"),
        ('Double the last letter of "zimom".', "zimomm", "zzimom"),
        ('Write "ace" with its last letter twice.', "acee", "ace"),
        ('Shift every letter of "zimom" by one.', "ajnpn", "zimom"),
        ('Replace every letter of "ace" by the next.', "bdf", "bde"),
        ("Give the largest of 12, 78, 45.", "78", "45"),
        ("Which of 10, 99, 98 is the largest?", "99", "10"),
        ("Order the numbers 45, 12, 78.", "12 45 78", "45 12 78"),
        ("Put the numbers 99, 98, 10 in order.", "10 98 99", "10, 98, 99"),
        ("What is the capital of France?", None, None),
        ('Shift every letter of "zimom".', None, None),
        ('Please reverse the word "zimom".', None, None),
    ],
)
def test_the_checker_by_hand(prompt, right, wrong):
    if right is None:
        assert task.check(prompt, "zimom") is None
    else:
        assert task.check(prompt, f" {right}\n") is True
        assert task.check(prompt, wrong) is False
        assert task.check(prompt, "") is False


def test_every_generated_answer_is_right():
    assert all(task.check(*pair) for pair in task.pairs("test", 800, 3))


# The tokenizer


def test_any_text_round_trips_and_nothing_is_unknown(tok):
    texts = [*TRICKY, *map(tokenizer.render, TRICKY), "".join(map(chr, range(1, 0x3000)))]
    for text in texts:
        assert tok.decode(tok(text)["input_ids"]) == text
    assert tok.unk_token_id is None


def test_prompt_and_answer_encode_apart_as_together(tok):
    pairs = [*task.pairs("test", 800, 0), *itertools.product(TRICKY, TRICKY)]
    for prompt, answer in pairs:
        prompt = tokenizer.render(prompt)
        apart = tok(prompt)["input_ids"] + tok(answer)["input_ids"]
        assert apart == tok(prompt + answer)["input_ids"]


def test_one_id_a_letter(tok):
    """A piece inside an answer would make one word easier than another."""
    longest = 0
    for _, answer in task.pairs("test", 8_000, 0):
        ids = tok(answer)["input_ids"]
        assert len(ids) == len(answer)
        longest = max(longest, len(ids) + 1)
    assert longest == 9 <= figures.MAX_NEW_TOKENS  # "12 45 78" and EOS


def test_the_project_renders_what_the_policies_were_trained_on(tok):
    """The tokenizer is made for one template, which is written there a second time."""
    renderer = Renderer(tok, "alpaca_space")
    pairs = task.pairs("test", 16, 0)
    ids = [renderer.pair_ids(Conversation(prompt), answer) for prompt, answer in pairs]
    assert ids == training.encode(tok, pairs)


def test_special_tokens(tok):
    assert tok.bos_token_id is None
    assert (tok.pad_token_id, tok.eos_token_id) == (0, 1)
    assert len(tok) == 2 + len(tokenizer.pieces(task.forms())) + 256


# The recipe


def test_pretraining_answers_are_mostly_wrong():
    """Of 4000 answers 15% are right by design, and a few more by coincidence ("ace" sorted)."""
    corpus = build.pretraining_pairs(4_000, 0)
    right = sum(task.check(*pair) for pair in corpus) / len(corpus)
    assert 0.13 < right < 0.21
    assert {task.split_of(task.parse(prompt)[1]) for prompt, _ in corpus} == {"pretrain"}


def test_only_the_answer_and_its_eos_are_targets():
    _, targets = training.collate([([5, 6, 7], [8, 1]), ([5], [9, 9, 9, 1])])
    off = training.IGNORE
    assert targets.tolist() == [[off, off, off, 8, 1], [off, 9, 9, 9, 1]]


def test_learning_rate_by_hand():
    """Warm-up over 2 of 4 steps: 1/2 of cos 0, all of cos 45 degrees, ..."""
    factors = [training.lr_factor(step, 4, 2) for step in range(4)]
    assert factors == pytest.approx([0.5, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


@pytest.mark.slow
def test_a_short_rebuild_replaces_its_folder_and_gives_the_same_weights(tmp_path, caplog):
    """Twice into one folder: what is shipped can be rebuilt in place, bit for bit."""
    digests = []
    for _ in range(2):
        with caplog.at_level("INFO"):
            main(["--out", str(tmp_path), "--steps", "5", "--num-eval", "8"])
        digests.append({which: training.digest(tmp_path / which) for which in ("base", "warm")})
    assert digests[0] == digests[1]
    assert digests[0]["base"] != digests[0]["warm"]
    assert {path.name for path in tmp_path.iterdir()} == {"base", "warm"}
    assert len(card_figures(caplog.text)) == 4
    for which in ("base", "warm"):
        rebuilt = {path.name for path in (tmp_path / which).iterdir()}
        assert rebuilt == {path.name for path in micro.folder(which).iterdir()}


# What is shipped

FIGURE = r"\| (base|warm) \| (\w+) \| (\d+) \| ([\d.]+) \+- ([\d.]+) \| ([\d.]+) \|"


def card_figures(text):
    """(policy, split) -> n; at temperature 1 percent right and its deviation; greedy percent."""
    return {row[:2]: (int(row[2]), *map(float, row[3:])) for row in re.findall(FIGURE, text)}


def percent_right(model, tok, pairs, temperature):
    """Of one response each, and the binomial standard error over the prompts."""
    prompts = [prompt for prompt, _ in pairs]
    limit = figures.MAX_NEW_TOKENS
    responses = training.respond(model, tok, prompts, max_new_tokens=limit, temperature=temperature)
    share = training.share_right(task.check, prompts, responses)
    return 100 * share, 100 * (share * (1 - share) / len(pairs)) ** 0.5


@pytest.fixture(scope="module")
def card():
    return (micro.folder("base").parent / "README.md").read_text()


def test_shipped_policies_are_half_a_million_float16_parameters_in_two_megabytes(shipped, card):
    which, model = shipped
    assert f"{model.num_parameters():,} parameters" in card
    assert 400_000 < model.num_parameters() < 500_000
    assert model.dtype == torch.float32
    sizes = [path.stat().st_size for path in micro.folder("base").parent.rglob("*.safetensors")]
    assert len(sizes) == 2 and sum(sizes) <= 2_000_000
    assert f"| {which} | `{training.digest(micro.folder(which))}` |" in card


def test_shipped_tokenizers_are_the_one_of_the_task():
    built = tokenizer.build(task.forms()).backend_tokenizer.to_str()
    for which in ("base", "warm"):
        found = AutoTokenizer.from_pretrained(micro.folder(which))
        texts = [tokenizer.render(prompt) for prompt, _ in task.pairs("test", 100, 0)]
        assert found(texts)["input_ids"] == tokenizer.build(task.forms())(texts)["input_ids"]
        assert found.backend_tokenizer.to_str() == built


def test_generation_settings(shipped):
    config = shipped[1].generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_shipped_policies_do_what_the_card_says(shipped, tok, card, temperature):
    """On all test prompts of the card.

    Greedy figures repeat up to near ties that another CPU may break otherwise; samples repeat only
    where the same generator meets the same probabilities.
    """
    which, model = shipped
    n, sampled, _, greedy = card_figures(card)[which, "test"]
    assert n == 800
    percent, stderr = percent_right(model, tok, task.pairs("test", n, 0), temperature)
    if temperature is None:
        assert percent == pytest.approx(greedy, abs=stderr)
    else:
        assert percent == pytest.approx(sampled, abs=3 * stderr)


@pytest.mark.slow
def test_float16_on_disk_costs_nothing(tok, card, tmp_path):
    """The warm start made again in float32 answers as it does after a trip through the disk.

    At most 4 of 800 greedy answers may change; none did where the card was made. Made again from
    the shipped base, it is also as good as the shipped one, within a standard error.
    """
    policy = training.load(micro.folder("base"))
    examples = training.encode(tok, task.pairs("warm", build.WARM.num_pairs, 0))
    training.train(policy, examples, build.WARM.recipe, seed=0)
    training.save(policy, tok, tmp_path / "warm")
    stored = training.load(tmp_path / "warm")
    assert any(
        not torch.equal(a, b) for a, b in zip(policy.parameters(), stored.parameters(), strict=True)
    )

    pairs = task.pairs("test", 800, 0)
    prompts = [prompt for prompt, _ in pairs]
    before, after = (
        training.respond(
            model, tok, prompts, max_new_tokens=figures.MAX_NEW_TOKENS, temperature=None
        )
        for model in (policy, stored)
    )
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4

    percent, stderr = percent_right(policy, tok, pairs, None)
    assert percent == pytest.approx(card_figures(card)["warm", "test"][-1], abs=stderr)


def test_base_hardly_follows_instructions_and_warm_does_in_part(card):
    for split in ("validation", "test"):
        assert 5 < card_figures(card)["base", split][-1] < 15
        assert 33 < card_figures(card)["warm", split][-1] < 47


def test_folder_names_its_choices():
    with pytest.raises(ValueError, match="'cold'.*'base' or 'warm'"):
        micro.folder("cold")
