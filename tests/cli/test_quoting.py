"""Values that are text arrive as they were typed; what cannot be read is said with its quotes."""

import shlex

import pytest

from tspin.cli.command import check
from tspin.cli.quoting import as_typed, text_keys

NAMES = [
    *("a=b", "donn\u00e9es", "d (1)", "x#1", "x&y", "two words", "it's", "[a]", "{a}", "a$b"),
    *("x,y", "a:b", "a;b", "a!b", "1e5", "123", "true", '"quoted"', "a\\b", "${seed}", " a", "a\\"),
    "micro-tspin-micro-s0-size=8-beta=0.0,0.3",
]


def runs(*words):
    return [point.run for point in check(words).points]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_exists_needs_no_quotes(here, name):
    (here / name).mkdir()
    [run] = runs(
        *("data=file", "model=custom", "model.template=chat", f"data.path={name}"),
        *(f"++model.path={name}", f"selfplay.start_from={name}", f"runs_dir={name}"),
    )
    assert run.data.path == run.selfplay.start_from == run.runs_dir == name


@pytest.mark.parametrize("name", [name for name in NAMES if not {*name} & {*'"$,'}])
def test_a_path_that_is_not_there_yet_needs_none_either(here, name):
    [run] = runs(f"runs_dir={name}/runs")
    assert run.runs_dir == f"{name}/runs"


def test_the_whole_command_takes_such_a_folder(here, monkeypatch):
    """As Hydra composes it once more from the words that `check` gives it."""
    (here / "a=b, c").mkdir()
    command = check(["runs_dir=a=b, c", "name=1e5"])
    assert command.arguments == ['runs_dir="a=b, c"', 'name="1e5"']
    assert runs(*command.arguments) == [command.points[0].run]


@pytest.mark.parametrize("name", ["pairs.jsonl", "my-pairs.csv", "a/b.csv", "a%b", "20.5", "a b"])
def test_a_path_is_quoted_only_where_it_would_be_read_as_something_else(here, name):
    """So that commands which are shown again are what was typed."""
    (here / name).mkdir(parents=True)
    for path in (name, str(here / name)):
        word = as_typed(f"runs_dir={path}", multirun=False)
        assert (word == f"runs_dir={path}") == (path != "20.5" and " " not in path)
        assert runs(word)[0].runs_dir == path


@pytest.mark.parametrize("form", ["{}", '"{}"', "'{}'", "+{}", "++{}"])
def test_quotes_of_hydra_and_its_prefixes_keep_their_meaning(here, form):
    prefix = form.removesuffix("{}") if form.startswith("+") else ""
    value = form if not prefix else "{}"
    word = f"{prefix}data.path={value.format('a.jsonl')}"
    assert as_typed(word, multirun=False) == word


@pytest.mark.parametrize("name", ["123", "1e5", "true", "0123", "1_000"])
def test_a_name_may_look_like_a_number(here, name):
    [run] = runs(f"name={name}")
    assert run.name == name


def test_null_stays_no_value(here):
    [run] = runs("name=null", "selfplay.start_from=null")
    assert run.name == "micro-tspin-micro-s0" and run.selfplay.start_from is None


def test_an_interpolation_is_one_unless_a_file_is_called_so(here):
    [run] = runs("seed=7", "runs_dir=runs/${seed}")
    assert run.runs_dir == "runs/7"


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a,b", ["a", "b"]),
        ("a=1,b=2", ["a=1", "b=2"]),
        ("a (1),b (2)", ["a (1)", "b (2)"]),
        ('"a,b",c', ["a,b", "c"]),
        ("choice(a,b)", ["a", "b"]),
        ("x,y", ["x,y"]),  # a file of that name is there
        ("1,2", ["1", "2"]),
    ],
)
def test_sweeps_over_paths(here, value, paths):
    for name in ("a (1)", "b (2)", "x,y"):
        (here / name).touch()
    made = runs("-m", "data=file", f"data.path={value}")
    assert [run.data.path for run in made] == paths


def test_commas_elsewhere_are_alternatives_still(here):
    made = runs("-m", "loss=sft,tspin", "coef.beta=[0,0.1],0.2", "seed=0,1")
    assert len(made) == 8


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["data.path=a,b"], """'data.path="a,b"'"""),
        (["-m", "data.path=a (1),b"], """'data.path="a (1),b"'"""),
        (["coef.alpha=a=b"], """'coef.alpha="a=b"'"""),
        (["track.tags=[a#b]"], """'track.tags="[a#b]"'"""),
        (["+decoding.vllm_args.chat=x=y"], """'+decoding.vllm_args.chat="x=y"'"""),
    ],
)
def test_what_cannot_be_read_is_shown_as_a_word_to_type(here, words, shown):
    with pytest.raises(ValueError) as refused:
        check(words)
    message = str(refused.value)
    assert message.startswith(words[-1]) and shown in message and "\n" not in message
    [word] = shlex.split(shown)
    assert as_typed(word, multirun=True) == word


def test_the_paths_are_those_of_the_typed_configuration():
    assert {key for key, is_path in text_keys().items() if is_path} == {
        *("runs_dir", "model.path", "data.path", "decoding.vllm_python", "evals.data_root"),
        *("evals.tasks_dir", "selfplay.start_from", "sync.url"),
    }
    assert "loss.link" not in text_keys() and "track.group" in text_keys()


def test_what_is_hydras_is_left_alone(here):
    word = "hydra.searchpath=[file:///a]"
    assert as_typed(word, multirun=False) == word


@pytest.mark.parametrize("word", ["={enable_thinking: false}", ".enable_thinking=false"])
def test_a_mapping_whose_keys_are_the_users_takes_new_ones(here, word):
    [run] = runs(f"model.template_args{word}", "decoding.vllm_args={enforce_eager: true}")
    assert run.model.template_args == {"enable_thinking": False}
    assert run.decoding.vllm_args == {"enforce_eager": True}
