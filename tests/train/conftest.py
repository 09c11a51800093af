import pytest

from fastadv.train.cli import main


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a student of the digits, trained for a second: weights.pt and checkpoints/."""
    folder = tmp_path_factory.mktemp("small") / "run"
    arguments = ["--methods=ce", "--seeds=0", "--epochs=12", "--student-samples=300", "--eval-steps=1"]
    assert main(["train", "--run-dir", str(folder), "--no-tensorboard", *arguments]) == 0
    return folder / "ce-seed0"
