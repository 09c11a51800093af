"""The committed pages of studies are what their numbers beside them give."""

import json
from pathlib import Path

import pytest

from benchmarks.studies import attack_loops, autoattack_peers, training_step
from benchmarks.suite.results import FOLDER

PAGES = {"attack-loops": attack_loops.page, "training-step": training_step.page}
NUMBERS = sorted(path for study in PAGES for path in (FOLDER / study).glob("*.json"))
ENSEMBLES = sorted(path.parent for path in FOLDER.glob("autoattack*/*/about.json"))


@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda path: path.parent.name)
def test_a_page_is_of_the_numbers_beside_it(numbers: Path):
    assert numbers.with_suffix(".md").read_text() == PAGES[numbers.parent.name](json.loads(numbers.read_text()))


@pytest.mark.parametrize("folder", ENSEMBLES, ids=lambda folder: folder.name)
def test_a_page_is_of_the_verdicts_beside_it(folder: Path):
    assert folder.with_name(f"{folder.name}.md").read_text() == autoattack_peers.page(folder)
