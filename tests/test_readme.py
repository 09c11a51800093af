"""README's Python blocks run as they stand, and its length is what a stranger reads."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastadv
from fastadv.train.networks import catalogue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def given() -> dict[str, object]:
    """What the blocks take for granted: a reader's tensors, networks and loader."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 3, 32, 32, generator=generator), torch.arange(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student, teacher, network = (
            catalogue.build(name, num_classes=10, image_shape=(3, 32, 32))
            for name in ("resnet8", "resnet14", "resnet8")
        )
    s, t = torch.randn(4, 10, generator=generator), torch.randn(4, 10, generator=generator)
    step = {"grad": torch.randn(x.shape, generator=generator), "x0": x.clone(), "eps": 8 / 255, "step": 2 / 255}
    loop = {"student": student, "teacher": teacher, "loader": [(x, y)] * 2, "epochs": 2, "images": 8}
    known = {"torch": torch, "nn": nn, "F": F, "fastadv": fastadv, "network": network, "T": 4.0, "s": s, "t": t}
    return {**known, "x": x, "y": y, **step, **loop}


def named(word: str) -> str:
    """The one block that has ``word``."""
    (block,) = [block for block in BLOCKS if word in block]
    return block


def test_the_page_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs_as_it_stands(block):
    exec(compile(block, "README.md", "exec"), given())


def test_the_swapped_lines_have_the_numbers_of_those_they_replace():
    before, after = named("# before").split("# after\n")
    old, new = given(), given()
    exec(before, old)
    exec(after, new)
    torch.testing.assert_close(new["loss"], old["loss"])
    torch.testing.assert_close(new["x"], old["x"], rtol=0, atol=2**-23)
    assert not torch.equal(old["x"], given()["x"])


def test_the_attack_of_the_page_fools_the_network():
    names = given()
    exec(named("attacks.pgd("), names)
    model, x, y, adversarial = (names[name] for name in ("model", "x", "y", "adversarial"))
    with torch.no_grad():
        assert F.cross_entropy(model(adversarial), y) > F.cross_entropy(model(x), y)
    assert (adversarial - x).abs().max() <= 8 / 255 + 2**-23
    assert names["particles"].shape == (4, 4, 3, 32, 32)


def test_the_loop_of_the_page_trains_the_student():
    names = given()
    before = [parameter.clone() for parameter in names["student"].parameters()]
    exec(named("TALD("), names)
    assert all(not torch.equal(old, new) for old, new in zip(before, names["student"].parameters(), strict=True))


@pytest.mark.parametrize("line", re.findall(r"^# (method = \w+\(\))", named("TALD("), flags=re.MULTILINE))
@pytest.mark.filterwarnings("ignore:IGDM")
def test_another_method_is_one_line(line):
    names = given()
    if "AIKD" in line:
        names["teacher"] = copy.deepcopy(names["student"])
    before = [parameter.clone() for parameter in names["student"].parameters()]
    exec(re.sub(r"^method = .*$", line, named("TALD("), count=1, flags=re.MULTILINE), names)
    assert names["distiller"].finished
    assert torch.isfinite(names["loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, names["student"].parameters(), strict=True))


def test_links_lead_somewhere():
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
        ROOT / "benchmarks/results/README.md",
    ):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_files_that_contributors_are_sent_to_are_there():
    for name in re.findall(
        r"`((?:fastadv|csrc|kernels|benchmarks|tests)/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        assert (ROOT / name).exists(), name
