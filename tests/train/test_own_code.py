"""MODULE:FUNCTION of a user's own as a network and as data, on the command line."""

import json
import random
import re
import sys
import textwrap

import numpy
import pytest
import torch

from fastadv.train.cli import main
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.train_config import Config, resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.networks import catalogue
from fastadv.train.networks.weights import load_weights
from fastadv.train.robustness.attack_split import prepare
from fastadv.train.runtime.errors import ConfigError

NETWORKS = """
    import random

    import numpy
    from torch import nn
    from fastadv.attacks import Normalized
    from fastadv.distill import Hooked

    class Net(nn.Module):
        def __init__(self, width, channels, classes):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
            self.head = nn.Linear(width, classes)

        def forward(self, x):
            return self.head(self.second(self.first(x)).mean((2, 3)))

    def plain(num_classes, image_shape):
        return Net(4, image_shape[0], num_classes)

    def hooked(num_classes, image_shape):
        return Hooked(Net(6, image_shape[0], num_classes), ["first.2", "second.1"])

    def anything(**offered):
        return Net(4, offered["image_shape"][0], offered["num_classes"])

    def drawn(**offered):
        network = anything(**offered)
        for weight in network.parameters():
            weight.data.mul_(random.random() * float(numpy.random.rand()))
        return network

    def raising(num_classes):
        raise RuntimeError("no luck\\nat all")

    def number():
        return 3

    def flat():
        return nn.Flatten()

    class Heads(nn.Module):
        def forward(self, x):
            return x, x

    def heads():
        return Heads()

    ONE = Net(4, 1, 3)

    def same():
        return ONE

    def normalised(num_classes, image_shape):
        return Normalized(Net(4, image_shape[0], num_classes), 0.3, 0.2)

    constant = 4
"""

DATA = """
    import random

    import numpy
    import torch
    from torch.utils.data import TensorDataset

    def pair(count):
        x = torch.arange(count * 64).reshape(count, 1, 8, 8) % 251
        return x.to(torch.uint8), torch.arange(count) % 3

    def tensors():
        return pair(40), pair(20)

    def sets(data_dir):
        assert data_dir.name == "here"
        (a, b), (c, d) = tensors()
        return TensorDataset(a / 255, b.int()), TensorDataset(c / 255, d.int())

    def with_images(**changes):
        (a, b), test = tensors()
        given = {"x": a, "y": b, **changes}
        return (given["x"], given["y"]), test

    def one_split():
        return pair(40)  # taken for two datasets, of images and of labels

    def three():
        return pair(40), pair(20), pair(20)

    def lists():
        return ([1], [2]), pair(20)

    def flat():
        return with_images(x=torch.zeros(40, 64))

    def signed():
        return with_images(x=pair(40)[0].int())

    def wide():
        return with_images(x=pair(40)[0].float())

    def broken():
        return with_images(x=torch.full((40, 1, 8, 8), torch.nan))

    def soft():
        return with_images(y=torch.zeros(40))

    def unlabelled():
        return with_images(y=torch.full((40,), -1))

    def other_size():
        return with_images(x=torch.zeros(40, 1, 9, 9, dtype=torch.uint8))

    def one_class():
        return 2 * ((torch.zeros(9, 1, 8, 8), torch.zeros(9, dtype=torch.int64)),)

    class Pictures:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return object(), 0

    def pictures():
        return Pictures(), Pictures()

    def from_one():
        return [(images, labels + 1) for images, labels in tensors()]

    def by_class():
        images, labels = pair(20)
        order = labels.argsort(stable=True)
        return pair(40), (images[order], labels[order])

    def missing():
        raise FileNotFoundError("no such folder")

    def random_split():
        images, labels = pair(40)
        places = torch.randperm(40).tolist()
        random.shuffle(places)
        images = images // int(numpy.random.randint(1, 9))
        train, test = places[:20], places[20:]
        return (images[train], labels[train]), (images[test], labels[test])
"""

SHORT = ["--teacher-epochs=1", "--epochs=1", "--max-steps=2", "--seeds=0", "--eval-samples=20", "--eval-steps=1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, with modules own_networks and own_data, which no test leaves behind."""
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")  # what is added to sys.path goes with it
    monkeypatch.chdir(tmp_path)
    for name, text in (("own_networks", NETWORKS), ("own_data", DATA)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("own_networks", "own_data"):
        sys.modules.pop(name, None)


def fails(capsys, *arguments):
    assert main([*arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fastadv: error: ")
    assert message.count("\n") == 1
    return message.removeprefix("fastadv: error: ").strip()


def test_a_run_of_own_networks_and_data_resumes_and_is_attacked(here, capsys):
    run = ["train", "--run-dir=run", "--no-tensorboard"]
    own = ["--data=own_data:tensors", "--teacher=own_networks:hooked", "--student=own_networks:hooked"]
    assert main([*run, *own, "--methods=ce,at", *SHORT]) == 0
    assert "| teacher (own_networks:hooked) |" in capsys.readouterr().out
    report = (here / "run" / "report.md").read_text()
    assert "own_networks:hooked" in report
    assert "own_data:tensors" in report
    assert main(["train", "--resume", "--run-dir=run", "--methods=kd"]) == 0
    assert (here / "run" / "kd-seed0" / "result.json").exists()

    # What a Hooked network learned fits the network inside, behind a function that hooks nothing, and its teacher.
    (here / "own_networks.py").write_text((here / "own_networks.py").read_text().replace("Net(4,", "Net(6,"))
    sys.modules.pop("own_networks")
    weights = "run/at-seed0/weights.pt"
    attack = ["attack", "--model=own_networks:plain", f"--checkpoint={weights}", "--data=own_data:sets"]
    assert main([*attack, "--data-dir=here", "--steps=1", "--out=attacked"]) == 0
    result = json.loads((here / "attacked" / "result.json").read_text())
    assert (result["model"], result["data"], result["images"]) == ("own_networks:plain", "own_data:sets", 20)
    clean = json.loads((here / "run" / "at-seed0" / "result.json").read_text())["clean"]
    assert result["accuracy"]["float32"]["clean"]["accuracy"] == clean
    assert main(["attack", "--resume", "--out=attacked"]) == 0
    teacher = ["--teacher=own_networks:plain", f"--teacher-checkpoint={weights}", "--student=own_networks:plain"]
    assert main(["train", "--run-dir=second", "--no-tensorboard", own[0], *teacher, "--methods=kd", *SHORT]) == 0


def test_a_network_that_brings_its_weights_is_attacked_without_a_checkpoint(here, capsys):
    module = here / "own_networks.py"
    trained = "\n\ndef trained(num_classes):\n    torch.manual_seed(SEED)\n    return Net(4, 1, num_classes)\n"
    module.write_text(f"import torch\n\nSEED = 1\n{module.read_text()}{trained}")
    attack = ["attack", "--model=own_networks:trained", "--n=20", "--steps=1"]
    assert main([*attack, "--out=attacked"]) == 0
    assert len(json.loads((here / "attacked" / "result.json").read_text())["origin"]["Weights SHA-256"]) == 64
    assert main(["attack", "--resume", "--out=attacked", "--n=30"]) == 0
    sys.modules.pop("own_networks")
    module.write_text(module.read_text().replace("SEED = 1", "SEED = 2"))
    assert "Weights SHA-256" in fails(capsys, "attack", "--resume", "--out=attacked", "--n=40")


def test_classes_without_a_training_image_are_told(here, capsys):
    own = ["--data=own_data:from_one", "--student=own_networks:plain", "--methods=ce", *SHORT, "--no-tensorboard"]
    assert main(["train", "--run-dir=run", *own]) == 0
    assert "\nnote: 1 of the 4 classes have no training image\n" in capsys.readouterr().out
    assert "- 1 of the 4 classes have no training image.\n" in (here / "run" / "report.md").read_text()


def test_of_data_in_the_order_of_classes_the_report_says_which_the_first_lack(here, capsys):
    note = "the first 10 test images are of 2 of the 3 classes alone"
    own = ["--data=own_data:by_class", "--student=own_networks:plain", "--methods=ce", *SHORT, "--pgd-samples=10"]
    assert main(["train", "--run-dir=run", "--no-tensorboard", *own]) == 0
    assert f"note: {note}\n" in capsys.readouterr().out
    assert f"- {note}." in (here / "run" / "report.md").read_text()
    attack = ["attack", "--model=own_networks:plain", "--checkpoint=run/ce-seed0/weights.pt", "--steps=1"]
    assert main([*attack, "--data=own_data:by_class", "--n=10", "--out=attacked"]) == 0
    assert f"own_data:by_class; {note}." in (here / "attacked" / "report.md").read_text()


def test_a_network_that_normalises_gets_pixels(here):
    network = catalogue.build("own_networks:normalised", num_classes=3, image_shape=(1, 8, 8)).eval()
    torch.save(network.state_dict(), "weights.pt")
    data = datasets.load("own_data:tensors")
    x = to_pixels(data.test.images)
    given = {"model": "own_networks:normalised", "checkpoint": here / "weights.pt", "data": "own_data:tensors"}
    prepared = prepare(AttackConfig(**given))
    torch.testing.assert_close(prepared.network(x), network(x).detach())
    assert prepared.weights["Normalisation"] == "the network's own"
    config = resolve(flags={"data": given["data"], "student": given["model"]})
    student = build_classifier(config.student, config, data, seed=0).eval()
    assert torch.equal(student(x), student.network(x))


def test_weights_of_the_inside_fit_a_hooked_network(here):
    inside = catalogue.build("own_networks:plain", num_classes=3, image_shape=(1, 8, 8))
    torch.save({"state_dict": inside.state_dict()}, here / "inside.pt")
    import own_networks

    hooked = own_networks.Hooked(own_networks.plain(3, (1, 8, 8)), ["first.2"])
    load_weights(hooked, here / "inside.pt")
    assert torch.equal(hooked.model.head.weight, inside.head.weight)


@pytest.mark.parametrize("name", ["plain", "drawn"])
def test_a_seed_gives_the_same_network_of_ones_own(name):
    """Of whichever generator it draws, which goes on afterwards as if nothing had been drawn."""
    data = datasets.load("digits")
    config = Config(student=f"own_networks:{name}")
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1]
    one, twin, other = (build_classifier(config.student, config, data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.network.head.weight, twin.network.head.weight)
    assert not torch.equal(one.network.head.weight, other.network.head.weight)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == numpy.random.get_state()[1]).all()


def test_a_split_drawn_at_random_is_the_same_in_every_run(here):
    run = ["train", "--run-dir=run", "--no-tensorboard"]
    first = ["--data=own_data:random_split", "--student=own_networks:anything", "--methods=ce", *SHORT]
    assert main([*run, *first]) == 0
    # A result on the test images of the run, by what is called again.
    student = ["--model=own_networks:anything", "--checkpoint=run/ce-seed0/weights.pt", "--attack=fgsm", "--out=fgsm"]
    assert main(["attack", "--data=own_data:random_split", *student]) == 0
    facts = [json.loads((here / of / "origin.json").read_text())["Test images SHA-256"] for of in ("run", "fgsm")]
    assert facts[0] == facts[1]
    assert main([*run, "--resume", "--seeds=1"]) == 0


def test_a_run_does_not_go_on_with_other_images(here, capsys):
    run = ["train", "--run-dir=run", "--no-tensorboard"]
    assert main([*run, "--data=own_data:tensors", "--student=own_networks:plain", "--methods=ce", *SHORT]) == 0
    module, text = here / "own_data.py", (here / "own_data.py").read_text()
    before = json.loads((here / "run" / "config.toml").with_name("results.json").read_text())
    module.write_text(f"{text}\nboth = tensors\ntensors = lambda: (both()[0], [each.flip(0) for each in both()[1]])\n")
    sys.modules.pop("own_data")
    assert main([*run, "--resume", "--seeds=1"]) == 2
    assert "started with other values (Test images SHA-256 " in capsys.readouterr().err
    assert json.loads((here / "run" / "results.json").read_text()) == before
    # Runs of earlier versions did not keep it.
    origin = json.loads((here / "run" / "origin.json").read_text())
    kept = {name: fact for name, fact in origin.items() if "images SHA-256" not in name}
    assert len(kept) == len(origin) - 2
    (here / "run" / "origin.json").write_text(json.dumps(kept))
    assert main([*run, "--resume", "--seeds=1"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:nett", "'own_networks:nett' cannot be imported in .*AttributeError: .*no attribute 'nett'"),
        ("unheard:net", "'unheard:net' cannot be imported in .*ModuleNotFoundError: No module named 'unheard'"),
        ("own_networks:constant", "'own_networks:constant' is a int, expected a function"),
        ("own_networks:", "'own_networks:' is a module, expected a function"),
        ("own_networks:raising", "'own_networks:raising' raised RuntimeError: no luck$"),
        ("own_networks:number", "'own_networks:number' gave int, expected a torch.nn.Module"),
        ("own_networks:flat", r"'own_networks:flat' gives \[\d, 64\] for \d images, expected logits \[\d, 10\]"),
        ("own_networks:heads", "'own_networks:heads' gives a tuple in .*; fastadv.attacks.Logits"),
        ("own_networks:Net", "'own_networks:Net' raised TypeError: .* missing 3 required"),
    ],
)
@pytest.mark.parametrize("flag", ["teacher", "student", "model"])
def test_what_a_network_of_ones_own_lacks_is_said_with_its_flag(here, capsys, flag, name, message):
    if flag == "model":
        found = fails(capsys, "attack", "--model", name, "--checkpoint=none.pt", "--out=out")
    else:
        found = fails(capsys, "train", f"--{flag}", name, "--methods=kd", "--run-dir=out", "--no-tensorboard")
    assert re.match(f"{flag}: {message}", found), found
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "'own_data:nope' cannot be imported in"),
        ("missing", "'own_data:missing' raised FileNotFoundError: no such folder"),
        ("three", r"'own_data:three' gave tuple, expected \(train, test\)"),
        ("one_split", r"'own_data:one_split', train: got Tensor, expected a pair of tensors"),
        ("lists", r"'own_data:lists', train: got tuple, expected a pair of tensors"),
        ("flat", r"'own_data:flat', train: got \[40, 64\] and \[40\], expected images \[N, C, H, W\]"),
        ("signed", r"'own_data:signed', train: images of torch.int32, expected uint8"),
        ("wide", r"'own_data:wide', train: floats from 0 to 250, expected pixels in \[0, 1\]"),
        ("broken", r"'own_data:broken', train: floats from nan to nan"),
        ("soft", r"'own_data:soft', train: labels of torch.float32 from 0.0 on, expected integers"),
        ("unlabelled", r"'own_data:unlabelled', train: labels of torch.int64 from -1 on"),
        ("other_size", r"'own_data:other_size' has images of uint8 \[1, 9, 9\] and uint8 \[1, 8, 8\]"),
        ("one_class", r"'own_data:one_class' has the label 0 alone"),
        ("pictures", r"'own_data:pictures', train: TypeError: .* found <class 'object'>, expected a pair"),
    ],
)
def test_what_data_of_ones_own_lack_is_said(here, capsys, name, message):
    found = fails(capsys, "train", f"--data=own_data:{name}", "--methods=ce", "--run-dir=out", "--no-tensorboard")
    assert re.match(f"data: {message}", found), found
    assert not (here / "out").exists()


def test_a_function_that_gives_one_network_twice_is_refused():
    first = catalogue.build("own_networks:same", num_classes=3, image_shape=(1, 8, 8))
    assert first(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    with pytest.raises(ConfigError, match="student: 'own_networks:same' gave the same network again"):
        catalogue.build("own_networks:same", num_classes=3, image_shape=(1, 8, 8), field="student")


def test_a_method_of_features_says_how_a_network_of_ones_own_shows_them(capsys):
    names = ["--teacher=own_networks:plain", "--student=own_networks:plain"]
    found = fails(capsys, "train", *names, "--methods=at", "--run-dir=out", "--no-tensorboard")
    assert re.match(r"AT: .*must have with_features.*fastadv.distill.Hooked\(network, layers=\[...\]\)", found), found


def test_tensors_and_datasets_of_ones_own_are_the_same_pixels(here):
    tensors, sets = datasets.load("own_data:tensors"), datasets.load("own_data:sets", data_dir=here / "here")
    assert tensors.class_names == sets.class_names == ("0", "1", "2")
    assert tensors.train.images.dtype is torch.uint8
    assert torch.equal(to_pixels(tensors.train.images), sets.train.images)
    assert torch.equal(tensors.test.labels, sets.test.labels)
    assert tensors.mean == pytest.approx(sets.mean, abs=1e-6)
    with pytest.raises(ConfigError, match="image_size: 9, expected none with own_data:tensors"):
        datasets.load("own_data:tensors", image_size=9)
