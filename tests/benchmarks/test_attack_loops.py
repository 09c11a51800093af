"""Whole attacks are compared before they are timed, and the page says what the timing found."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.studies import attack_loops
from benchmarks.studies.attack_loops import BASELINE, EXACT, HALF
from benchmarks.suite.runner import Differs
from fastadv.attacks import freeze
from fastadv.train.networks.catalogue import build

STEPS = 2


@pytest.fixture
def attacks(torchattacks):
    torch.manual_seed(0)
    model = build("resnet8", num_classes=10, image_shape=(3, 8, 8)).eval()
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    variants = attack_loops.variants(model, x, y, STEPS)
    return variants | {f"{EXACT}, compiled": attack_loops.compiled(variants[EXACT])}, x, y


def test_every_attack_has_its_row(attacks):
    variants, x, y = attacks
    results = attack_loops.run(variants, x, y, STEPS, rounds=2)
    assert list(results["rows"]) == list(variants)
    assert results["rows"][BASELINE]["speedup"]["median"] == 1
    assert results["rows"][EXACT]["pixels_as_torchattacks"] > 0.9
    assert results["rows"][f"{EXACT}, compiled"]["network_share"] is None
    for name, row in results["rows"].items():
        assert variants[name].compiled or 0 < row["network_share"] < 1
        assert 0 < row["convolution_share"] < 1
        assert 0 < row["update_seconds"] < row["seconds"]["median"]
    machine = {"cpu": "a CPU", "instructions": "AVX2", "threads": 1, "torch": "2", "fastadv": "0"}
    page = attack_loops.page({"machine": machine, "attack": "PGD", "network": "resnet8", **results})
    assert all(f"| {name} |" in page for name in variants)


@pytest.mark.parametrize(
    ("name", "message"),
    [(EXACT, "gradients differ more than float32 explains"), (HALF, "loss .* by torchattacks, but")],
)
def test_a_copy_that_attacks_otherwise_is_not_timed(attacks, name, message, monkeypatch):
    variants, x, y = attacks
    monkeypatch.setattr(
        "benchmarks.studies.attack_loops.interleaved", lambda *given, **how: pytest.fail("timed all the same")
    )
    other = freeze(build("resnet8", num_classes=10, image_shape=(3, 8, 8)).eval())
    variants[name] = dataclasses.replace(variants[name], network=other)
    with pytest.raises(Differs, match=message):
        attack_loops.run(variants, x, y, STEPS, rounds=2)


def test_missing_images_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["attack_loops", "--checkpoint", "nowhere.pth", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        attack_loops.main()
    assert f"data_dir {tmp_path}" in capsys.readouterr().err
