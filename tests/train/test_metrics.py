import json

import pytest
import torch

from fastadv.train.runtime.errors import CheckpointError
from fastadv.train.runtime.metrics import MeanTerms, MetricsLog, read_metrics


def test_terms_are_averaged_between_readings():
    terms = MeanTerms()
    for value in (1.0, 2.0, 6.0):
        terms.add({"loss": torch.tensor(value, requires_grad=True), "kd": torch.tensor(value, dtype=torch.float64)})
    assert terms.read() == {"loss": 3.0, "kd": 3.0}
    terms.add({"loss": torch.tensor(5.0)})
    assert terms.read() == {"loss": 5.0}


def test_an_interval_survives_a_checkpoint():
    whole, first, second = MeanTerms(), MeanTerms(), MeanTerms()
    for value in (0.1, 0.7):
        whole.add({"loss": torch.tensor(value)})
    first.add({"loss": torch.tensor(0.1)})
    second.load_state_dict(first.state_dict())
    second.add({"loss": torch.tensor(0.7)})
    assert second.read() == whole.read()


def test_a_reopened_log_drops_what_came_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, {"loss": 0.5})
    position = log.sync()
    log.write("train", 2, {"loss": 0.25})
    log.close()
    log = MetricsLog(tmp_path, position=position, step=1)
    log.write("test", 3, {"accuracy": 1.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"kind": "train", "step": 1, "loss": 0.5}, {"kind": "test", "step": 3, "accuracy": 1.0}]
    assert read_metrics(tmp_path, "test") == rows[1:]


def test_every_line_is_strict_json(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, {"loss": 0.5, "repulsion": float("inf"), "other": float("nan")})
    log.close()
    assert read_metrics(tmp_path, "train") == [
        {"kind": "train", "step": 1, "loss": 0.5, "repulsion": None, "other": None}
    ]


def test_a_log_shorter_than_its_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: 0 bytes, the checkpoint expects 10"):
        MetricsLog(tmp_path, position=10)


def test_tensorboard_receives_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, tensorboard=True)
    log.write("train", 7, {"loss": 0.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(7, 0.5)]


def test_tensorboard_keeps_what_was_written_before_a_checkpoint(tmp_path):
    """The lines of a step come before its checkpoint, and a warm-up counts its steps from 0 as the training does."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    log = MetricsLog(tmp_path, warm_up=0, tensorboard=True)
    for step in (1, 2, 3):
        log.write("warm-up", step, {"loss": float(step)})
    for step in (1, 2):
        log.write("test", step, {"accuracy": step / 10})
    position = log.sync()
    log.write("test", 3, {"accuracy": 0.9})
    log.close()
    log = MetricsLog(tmp_path, position=position, step=2, warm_up=3, tensorboard=True)
    log.write("test", 4, {"accuracy": 0.4})
    log.close()
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars(".", "test/accuracy")] == [1, 2, 4]
    assert [event.step for event in events.Scalars("warm-up", "warm-up/loss")] == [1, 2, 3]
