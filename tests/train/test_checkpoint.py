import pytest
import torch

from fastadv.train.runtime.checkpoint import Checkpoints, write_atomically
from fastadv.train.runtime.errors import CheckpointError


def content(step):
    return {"step": step, "weights": torch.full((1000,), float(step)), "nested": {"names": ["a"], "none": None}}


def flip_byte_of_the_weights(path):
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((8,), 20.0).numpy().tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


class Hostile:
    def __reduce__(self):
        return print, ("this must not be printed",)


def make_hostile(path):
    torch.save({"step": Hostile()}, path)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_the_newest_is_loaded_and_two_are_kept(checkpoints):
    assert checkpoints.load_newest(device="cpu", warn=pytest.fail) is None
    for step in (5, 10, 20):
        checkpoints.save(step, content(step))
    found = checkpoints.load_newest(device="cpu", warn=pytest.fail)
    assert found is not None
    assert found["step"] == 20
    assert found["nested"] == {"names": ["a"], "none": None}
    assert torch.equal(found["weights"], content(20)["weights"])
    assert len(checkpoints.paths()) == 2


@pytest.mark.parametrize("damage", [cut, flip_byte_of_the_weights, make_hostile])
def test_a_damaged_newest_is_reported_and_the_one_before_used(checkpoints, damage, capsys):
    checkpoints.save(10, content(10))
    damage(checkpoints.save(20, content(20)))
    warnings: list[str] = []
    found = checkpoints.load_newest(device="cpu", warn=warnings.append)
    assert found is not None
    assert found["step"] == 10
    assert len(warnings) == 1
    assert "step-000000020.pt: damaged checkpoint" in warnings[0]
    assert capsys.readouterr().out == "", "code in the checkpoint was run"


def test_all_damaged_is_an_error_not_a_fresh_start(checkpoints):
    cut(checkpoints.save(10, content(10)))
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        checkpoints.load_newest(device="cpu", warn=lambda text: None)


def test_code_in_a_checkpoint_is_not_run(checkpoints, capsys):
    make_hostile(checkpoints.save(10, content(10)))
    warnings: list[str] = []
    with pytest.raises(CheckpointError):
        checkpoints.load_newest(device="cpu", warn=warnings.append)
    assert "with code in it, which is not run" in warnings[0]
    assert "weights_only" not in warnings[0], "torch's advice is to run it"
    assert capsys.readouterr().out == ""


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
