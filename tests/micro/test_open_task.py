"""The open micro task: what it asks, its checker, its teacher, and how its policies are built."""

import random
import re
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.tiny import compose

from tspin import micro
from tspin.micro import figures, open_build, open_task, splits, tokenizer, training
from tspin.micro.__main__ import main
from tspin.policy import weights
from tspin.tools import files

TEST = open_task.pairs("test", 800, 0)
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


# What is asked


@pytest.mark.slow
@pytest.mark.parametrize("noun", ["word", "number"])
def test_a_set_of_constraints_is_in_one_split_whatever_the_form(noun):
    """The sets of the prompts of all splits, each read back from the text, do not meet."""
    held = {
        split: {
            frozenset(open_task.parse(request.prompt()).constraints)
            for pool in open_task._pools(split)
            for request in pool
            if request.noun == noun
        }
        for split in ("warm", "train", "validation", "test")
    }
    total = len(open_task._sets(noun))
    assert len(set().union(*held.values())) == sum(map(len, held.values()))
    for split, sets in held.items():
        assert len(sets) == pytest.approx(total * splits.SPLITS[split] / 100, rel=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_lists_are_nested_unique_and_three_quarters_about_words(seed):
    long = open_task.pairs("train", 2048, seed)
    assert open_task.pairs("train", 512, seed) == long[:512]
    assert len({prompt for prompt, _ in long}) == 2048
    for n in (512, 2048):
        assert sum(open_task.parse(p).noun == "word" for p, _ in long[:n]) == 3 * n / 4


def test_word_prompts_have_one_to_three_constraints_in_turn():
    """Of 96 prompts 72 ask for words: 12 times TURNS, each with one single constraint."""
    requests = [open_task.parse(prompt) for prompt, _ in open_task.pairs("train", 96, 0)]
    numbers = [len(r.constraints) for r in requests if r.noun == "word"]
    assert [numbers.count(n) for n in (1, 2, 3)] == [12, 24, 36]
    assert {(r.count, r.style) for r in requests if r.noun == "word"} == {
        (count, style) for count in (1, 2, 3) for style in ("plain", "capitals", "dot")
    }


def test_another_seed_gives_another_list():
    assert open_task.pairs("train", 16, 0) != open_task.pairs("train", 16, 1)


@pytest.mark.slow
def test_a_split_gives_all_it_holds_and_no_more():
    n = open_task.num_available("validation")
    assert len({prompt for prompt, _ in open_task.pairs("validation", n, 0)}) == n
    with pytest.raises(ValueError, match=f"n={n + 1} .*micro_open split 'validation'.*{n}"):
        open_task.pairs("validation", n + 1, 0)
    with pytest.raises(ValueError, match="'dev'.*pretrain, warm, train, validation, test"):
        open_task.pairs("dev", 1, 0)


@pytest.mark.slow
def test_each_constraint_of_a_set_rules_something_out():
    """Else `starting with "b", containing "b"` would count as two."""
    for constraints in list(open_task._sets("word"))[::97]:
        with_all = open_task._known("word", constraints)[0]
        fewer = constraints[:-1]
        if fewer:
            assert len(with_all) < sum(
                all(open_task._holds()[c](w) for c in fewer) for w in open_task._items("word")
            )
        assert len(with_all) >= open_task.MIN_KNOWN
    assert ('starting with "b"', 'containing "b"') not in open_task._sets("word")


# The teacher


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_teacher_is_always_right(split):
    assert all(
        open_task.check(*pair) for seed in (0, 1) for pair in open_task.pairs(split, 800, seed)
    )


def known_answers(request):
    return open_task._known(request.noun, request.constraints)[0]


def test_the_teacher_draws_from_many_answers_some_far_more_often():
    """Half of the prompts leave about thirty words or numbers; rank 0 has 1/20, 100 has 1/120."""
    known = [len(known_answers(open_task.parse(prompt))) for prompt, _ in TEST]
    assert 25 <= statistics.median(known) <= 40
    assert min(known) >= open_task.MIN_KNOWN
    words = open_task._items("word")
    assert len(set(words)) == open_task.NUM_WORDS
    assert {len(word) for word in words} == {3, 4, 5}
    request = open_task.parse('Give a word without "e".')
    drawn = [open_task.teach(request, seed) for seed in range(4000)]
    first, hundredth = (set(known_answers(request)[i : i + 20]) for i in (0, 100))
    often, seldom = (sum(word in these for word in drawn) for these in (first, hundredth))
    assert often / seldom == pytest.approx(sum(1 / (20 + r) for r in range(20)) * 130 / 20, rel=0.5)


def test_the_teachers_answer_depends_on_prompt_and_seed_alone():
    request = open_task.parse(TEST[7][0])
    assert open_task.teach(request, 0) == TEST[7][1]
    assert len({open_task.teach(request, seed) for seed in range(20)}) > 1


# The checker


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        (
            'Give a word starting with "b".',
            ["badu", "bbb"],
            ["adu", "Badu", "ba", "badubo", "badu.", "badu badi", "b4du", "", "badu\u0131"],
        ),
        (
            'Write down two words ending with "n", without "e". Use capitals.',
            ["BON ADIN", "ADIN BON"],
            ["BON", "BON BON", "bon adin", "BON ADEN", "BON ADI", "BON  ADIN", "BON, ADIN"],
        ),
        (
            'Give three words of 4 letters, containing "o". End with a dot.',
            ["bado dobi oban."],
            ["bado dobi oban", "bado dobi oban..", "bado dobi obanu.", "bado. dobi oban.", "."],
        ),
        (
            "Give a number from 20 to 61, divisible by 5.",
            ["20", "45", "60"],
            ["15", "65", "22", "045", "45.", "45 50", "twenty"],
        ),
        ("Write down a number from 20 to 61, an odd one. End with a dot.", ["21."], ["22.", "21"]),
        ("Give a number from 20 to 61, an even one.", ["20", "60"], ["21", "62"]),
        ("Give a number from 35 to 93, with the digit 6.", ["36", "60", "86"], ["35", "96"]),
        ("What is the capital of France?", None, None),
        ('Give a word starting with "b"', None, None),
        ('Give two word starting with "b".', None, None),
        ('Give a word starting with "b", starting with "c".', None, None),
        ('Give a word ending with "b", starting with "c".', None, None),
        ('Give a word starting with "b". Use capitals. End with a dot.', None, None),
        ("Give a number from 20 to 61.", None, None),
        ("Give a number from 20 to 61, an odd one. Use capitals.", None, None),
        ("Give a number from 20 to 30, an odd one.", None, None),
        ("Give a number from 20 to 61, divisible by 9.", None, None),
        ('Give a number starting with "b".', None, None),
    ],
)
def test_the_checker_by_hand(prompt, right, wrong):
    if right is None:
        assert open_task.check(prompt, "badu") is None
        assert open_task.canonical(prompt, "badu") is None
    else:
        assert all(open_task.check(prompt, f" {answer}\n") is True for answer in right)
        assert [answer for answer in wrong if open_task.check(prompt, answer) is not False] == []


def judged(prompt, response):
    """The rules once more, from the texts, by other means than the task's."""
    count = {"a": 1, "two": 2, "three": 3}[re.search(r"(a|two|three) (word|number)", prompt)[1]]
    text = response.strip()
    if "End with a dot" in prompt:
        if text[-1:] != ".":
            return False
        text = text[:-1]
    letters = ALPHABET.upper() if "Use capitals" in prompt else ALPHABET
    found = text.split(" ")
    good = len(found) == len({*found}) == count
    for item in found:
        if " number " in prompt:
            digits = "".join(c for c in item if c in "0123456789")
            good = good and item == digits and len(digits) == 2 and digits[0] != "0"
            if not good:
                return False
            low, high = map(int, re.search(r"from (\d+) to (\d+)", prompt).groups())
            good = int(item) in range(low, high + 1)
            if by := re.search(r"divisible by (\d)", prompt):
                good = good and int(item) // int(by[1]) * int(by[1]) == int(item)
            if digit := re.search(r"digit (\d)", prompt):
                good = good and item.count(digit[1]) > 0
            if parity := re.search(r"an (odd|even) one", prompt):
                good = good and (item[1] in "13579") == (parity[1] == "odd")
            continue
        good = good and 3 <= len(item) <= 5 and not item.strip(letters)
        word = item.lower()
        rules = {
            r"of (\d) letters": lambda v, word=word: str(len(word)) == v,
            r'starting with "(.)"': lambda v, word=word: word[:1] == v,
            r'ending with "(.)"': lambda v, word=word: word[-1:] == v,
            r'containing "(.)"': lambda v, word=word: word.count(v) > 0,
            r'without "(.)"': lambda v, word=word: word.count(v) == 0,
        }
        for pattern, rule in rules.items():
            if value := re.search(pattern, prompt):
                good = good and rule(value[1])
    return good


MUTATIONS = (
    lambda text, i, c: text,
    lambda text, i, c: text[:i] + c + text[i:],
    lambda text, i, c: text[:i] + text[i + 1 :],
    lambda text, i, c: text[:i] + c + text[i + 1 :],
    lambda text, i, c: text.upper(),
    lambda text, i, c: text.lower(),
    lambda text, i, c: text + text[i:],
    lambda text, i, c: " ".join(reversed(text.split(" "))),
    lambda text, i, c: " ".join([*text.split(" "), "kodu"]),
    lambda text, i, c: " ".join(text.split(" ")[1:]),
)


@given(
    st.sampled_from(TEST),
    st.sampled_from(TEST),
    st.lists(
        st.tuples(
            st.sampled_from(MUTATIONS),
            st.integers(0, 21),
            st.one_of(st.sampled_from(ALPHABET + "EB0159. ,"), st.characters()),
        ),
        max_size=3,
    ),
)
def test_the_checker_agrees_with_another_one_on_answers_changed_at_random(own, other, changes):
    for prompt, answer in (own, (own[0], other[1])):
        for change, place, char in changes:
            answer = change(answer, min(place, len(answer)), char)
        assert open_task.check(prompt, answer) is judged(prompt, answer)


@given(st.sampled_from(TEST), st.data())
def test_one_constraint_broken_by_one_word_is_wrong(pair, choose):
    """The word put in meets all other constraints, so nothing else can be what fails."""
    prompt, answer = pair
    request = open_task.parse(prompt)
    items = request.items(answer)
    broken = choose.draw(st.sampled_from(request.constraints))
    others = [open_task._holds()[c] for c in request.constraints if c != broken]
    almost = [
        item
        for item in open_task._items(request.noun)
        if not open_task._holds()[broken](item) and all(holds(item) for holds in others)
    ]
    assume(almost)
    items[choose.draw(st.integers(0, request.count - 1))] = choose.draw(st.sampled_from(almost))
    assert open_task.check(prompt, request.response(items)) is False


def test_answers_that_say_the_same_have_one_spelling():
    prompt = 'Give two words ending with "n". End with a dot.'
    assert open_task.canonical(prompt, "bon adin.") == "adin bon"
    assert open_task.canonical(prompt, " adin bon.\n") == "adin bon"
    assert open_task.canonical(prompt, "bon aden.") == "aden bon"
    assert open_task.canonical(prompt, "bon adin") is None
    assert open_task.canonical('Give a word ending with "n". Use capitals.', "BON") == "bon"


@given(st.sampled_from(TEST), st.text())
def test_only_right_answers_have_a_spelling(pair, text):
    for answer in (pair[1], text):
        right = open_task.check(pair[0], answer)
        assert (open_task.canonical(pair[0], answer) is not None) is right


# The tokenizer


@pytest.fixture(scope="module")
def tok():
    return tokenizer.build(open_task.forms())


def test_one_id_a_letter(tok):
    """A piece inside an answer would make one word easier than another."""
    longest = 0
    for split in ("train", "test"):
        for _, answer in open_task.pairs(split, 4_000, 0):
            ids = tok(answer)["input_ids"]
            assert len(ids) == len(answer)
            longest = max(longest, len(ids) + 1)
    assert longest == 19 <= figures.MAX_NEW_TOKENS  # three of five letters, spaces, dot, EOS
    assert all(
        len(tok(f" {word}")["input_ids"]) == 1 + len(word) for word in open_task._items("word")
    )


def test_every_word_of_a_prompt_is_a_piece_and_all_text_round_trips(tok):
    for prompt, answer in TEST:
        text = tokenizer.render(prompt) + answer
        assert tok.decode(tok(text)["input_ids"]) == text
        words = [w for w in re.findall(tokenizer.WORD, re.sub('"."', '""', prompt))]
        assert all(len(tok(word)["input_ids"]) == 1 for word in words)


# The build


@pytest.mark.slow
def test_pretraining_answers_have_the_form_and_mostly_overlook_something():
    """A quarter is right by design; what was overlooked may be met by chance: `without "q"`."""
    corpus = open_build.pretraining_pairs(4_000, 0)
    right = sum(open_task.check(*pair) for pair in corpus) / len(corpus)
    assert open_build.RIGHT + 0.05 < right < open_build.RIGHT + 0.2
    assert len({prompt for prompt, _ in corpus}) == 4_000
    for prompt, answer in corpus:
        request = replace(open_task.parse(prompt), constraints=())
        assert request.items(answer) is not None


def test_a_teacher_who_overlooks_hears_less_than_was_asked():
    other = open_task.parse("Give a word of 4 letters.")
    request = open_task.parse('Give a word starting with "b", without "e".')
    rng = random.Random(0)
    found = {open_build.overheard(request, [other], rng) for _ in range(50)}
    assert found == {('starting with "b"',), ('without "e"',), other.constraints}


@pytest.mark.slow
def test_the_cache_knows_the_recipe():
    """A recipe that changes needs its new fingerprint in tspin.micro, and a new card, open.md."""
    assert micro.OPEN_RECIPE == open_build.fingerprint()
    card = (micro.folder("base").parent / "open.md").read_text()
    recipes = [open_build.PRETRAIN, *(warm.recipe for warm in open_build.WARM_STARTS.values())]
    assert all(f"`{recipe}`" in card for recipe in recipes)
    assert f"recipe {micro.OPEN_RECIPE}" in card


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Builds of seconds into a cache of the test's own, with its folder."""
    monkeypatch.setenv("TSPIN_CACHE", str(tmp_path))
    tiny = training.Recipe(lr=1e-3, batch_size=4, warmup_steps=1)
    monkeypatch.setattr(open_build, "STEPS", 2)
    for name, n in (("main", 16), ("weak", 8)):
        monkeypatch.setitem(open_build.WARM_STARTS, name, training.WarmStart(n, tiny))
    return micro.folder("base", "micro_open").parent


def digests(folder):
    names = micro.POLICIES["micro_open"]
    return [training.digest(folder / name) for name in names]


@pytest.mark.slow
def test_a_run_builds_the_policies_once(short, monkeypatch, caplog):
    """Asking whether they can be had builds nothing; asking for one builds all, bit for bit."""
    good, weak = (compose(f"model={name}").model for name in ("micro_open", "micro_open_weak"))
    threads = torch.get_num_threads()
    weights.check_reachable(good)
    assert not short.exists()
    with caplog.at_level("INFO"):
        assert weights.fetch(good) == short / "main"
    assert "once" in caplog.text and str(short) in caplog.text
    assert torch.get_num_threads() == threads

    monkeypatch.setattr(training, "train", None)  # would fail
    assert weights.fetch(weak) == short / "weak"
    found = digests(short)
    assert len(set(found)) == 3


@pytest.mark.slow
def test_an_interrupted_build_goes_on_and_gives_the_same(short, tmp_path):
    open_build.build(short)
    found = digests(short)
    again = tmp_path / "again"
    open_build.build(again)
    assert digests(again) == found
    files.remove(again / "weak")
    files.remove(again / "main")
    before = (again / "base" / "model.safetensors").stat().st_mtime_ns
    open_build.build(again)
    assert digests(again) == found
    assert (again / "base" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_command_builds_into_the_cache_and_prints_the_tables_of_the_card(
    short, monkeypatch, caplog
):
    monkeypatch.setattr(figures, "NUM_SAMPLES", 2)
    with caplog.at_level("INFO"):
        main(["micro_open", "--num-eval", "4"])
    for name, digest in zip(micro.POLICIES["micro_open"], digests(short), strict=True):
        assert f"| {name} | `{digest}` |" in caplog.text
        for split in ("validation", "test"):
            assert f"| {name} | {split} | 4 | " in caplog.text
