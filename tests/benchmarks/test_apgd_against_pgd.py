"""The comparison of APGD with PGD fails where APGD is the weaker by more than chance."""

from __future__ import annotations

import pytest
import torch

from benchmarks.studies import apgd_against_pgd
from fastadv.train.networks.catalogue import build
from fastadv.train.report.intervals import wilson


def share(correct):
    return {"accuracy": correct / 100, "interval": list(wilson(correct, 100))}


@pytest.mark.parametrize(("apgd", "weaker"), [(20, False), (38, False), (45, True)])
def test_a_weaker_apgd_ends_in_an_error(monkeypatch, capsys, apgd, weaker):
    robust = {"pgd": share(30), "apgd": share(apgd), "apgd, dlr": share(90)}
    row = apgd_against_pgd.Row("digits", "0.1", 100, share(95), robust)
    monkeypatch.setattr(apgd_against_pgd, "measured", lambda *given: row)
    monkeypatch.setattr("sys.argv", ["apgd_against_pgd", "--digits", "weights.pt"])
    if weaker:
        with pytest.raises(SystemExit, match="by more than the interval: digits"):
            apgd_against_pgd.main()
    else:
        apgd_against_pgd.main()
    assert "30.00 (21.9 to 39.6)" in capsys.readouterr().out


def test_every_attack_is_run_on_the_same_images(tmp_path):
    network = build("digits_small", num_classes=10, image_shape=(1, 8, 8))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    subject = {"model": "digits_small", "data": "digits", "n": 30, "checkpoint": tmp_path / "weights.pt", "eps": 0.2}
    row = apgd_against_pgd.measured("digits", "0.2", subject, steps=2)
    assert row.images == 30
    assert set(row.robust) == {"pgd", "apgd", "apgd, dlr"}
    assert all(0 <= each["accuracy"] <= row.clean["accuracy"] for each in row.robust.values())
