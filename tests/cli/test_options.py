"""Options of verbs and of analysis: what they mean, one line for what is wrong."""

import pytest

from tspin.cli.options import BOOLEAN, KeyParser


@pytest.fixture
def parser():
    parser = KeyParser("export")
    parser.option("run", "the folder of a run")
    parser.option("system", "a message", default="")
    parser.option("private", default="true", choices=BOOLEAN)
    parser.option("save", default="false", choices=BOOLEAN)
    return parser


DEFAULTS = {"system": "", "private": "true", "save": "false"}


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["run=runs/a"], {"run": "runs/a"}),
        (["--run=runs/a"], {"run": "runs/a"}),
        (["run=a=b c", "system=-x --y"], {"run": "a=b c", "system": "-x --y"}),
        (["run=", "system="], {"run": ""}),
        (["run=a", "run=b"], {"run": "b"}),
        (["--save", "run=a"], {"run": "a", "save": "true"}),
    ],
)
def test_a_word_and_a_flag_mean_the_same(parser, arguments, values):
    assert parser.read(arguments) == DEFAULTS | values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run= is missing: the folder of a run"),
        (["rnu=a"], "unknown option rnu=; did you mean run=? (choices: private=, run=,"),
        (["--rnu=a"], "unknown option rnu=; did you mean run=?"),
        (["--ru=a"], "unknown option ru=; did you mean run=?"),  # not an abbreviation
        (["run"], "run: write run=VALUE"),
        (["--run"], "--run: write run=VALUE"),
        (["run=a", "--private"], "--private: write private=VALUE"),
        (["run=a", "private=flase"], "private=flase: unknown value; did you mean false?"),
        (["run=a", "--save=yes"], "save=yes: unknown value"),
    ],
)
def test_what_is_wrong_is_one_line(parser, arguments, message):
    with pytest.raises(ValueError) as refused:
        parser.read(arguments)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
