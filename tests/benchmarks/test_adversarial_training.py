import json
import sys

from benchmarks.studies import adversarial_training


def test_it_makes_a_network_robust(tmp_path, monkeypatch):
    # Trained on clean digits the same network keeps about 30 % under this attack.
    monkeypatch.setattr(sys, "argv", ["adversarial_training", "--out", str(tmp_path), "--epochs=4", "--eps=0.1"])
    adversarial_training.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["clean"] > 0.9
    assert result["pgd"] > 0.5
    assert (tmp_path / "weights.pt").is_file()
