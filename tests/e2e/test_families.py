"""docs/models.md says of every model family what is measured here."""

import shutil

import pytest
from support.families.folders import FAMILIES
from support.families.matrix import COMMAND, row, stored

pytestmark = [
    pytest.mark.runs,
    pytest.mark.slow,
    # What peft says of its own choices.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set", "ignore:The following [a-z]*_patt"),
]


def test_the_page_has_every_family_once_and_in_order():
    assert [*stored()] == [*FAMILIES]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_says_what_is_measured(name, tmp_path):
    measured = row(name, tmp_path)
    shutil.rmtree(tmp_path)
    assert measured == stored()[name], f"write docs/models.md anew: {COMMAND}"
