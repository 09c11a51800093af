import importlib.util

import pytest
import torch

from fastadv.train.cli import main

# The modules that are about pictures, that look at all that a run leaves, or train every method.
DRAWN = {"test_plots", "test_compare", "test_experiment", "test_every_method", "test_autoattack_command"}


@pytest.fixture(scope="module", autouse=True)
def _pictures_of_one_pixel(request):
    """In other modules the pictures of a report are composed but not rendered, most of the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in DRAWN and importlib.util.find_spec("matplotlib"):
            from matplotlib.figure import Figure
            from PIL import Image

            patch.setattr(Figure, "savefig", lambda figure, path, **options: Image.new("L", (1, 1)).save(path, "PNG"))
        yield


@pytest.fixture(autouse=True)
def _a_cpu_without_units_for_bfloat16(monkeypatch):
    """What --precision auto chooses does not depend on the machine of the tests, and compiles nothing."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile is given, which runs as it is."""
    compile_ = torch.compile
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=backend, **options))
    return graphs


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a student of the digits, trained for a second: weights.pt and checkpoints/."""
    folder = tmp_path_factory.mktemp("small") / "run"
    arguments = ["--methods=ce", "--seeds=0", "--epochs=12", "--student-samples=300", "--eval-steps=1"]
    assert main(["train", "--run-dir", str(folder), "--no-tensorboard", *arguments]) == 0
    return folder / "ce-seed0"
