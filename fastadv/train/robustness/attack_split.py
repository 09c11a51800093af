"""Attack a test split batch by batch: the verdicts on each are one file, and what has one is not attacked again."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fastadv.attacks import Frozen, freeze
from fastadv.attacks.model.timed import TimedNetwork
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.data import datasets
from fastadv.train.data.splits import Dataset, to_pixels
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier, check_fit, normalises
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.digests import sha256_of_file, sha256_of_tensors
from fastadv.train.runtime.errors import CheckpointError, ConfigError
from fastadv.train.runtime.files import write_text
from fastadv.train.runtime.processes import Processes
from fastadv.train.runtime.progress import Progress
from fastadv.train.runtime.stopping import deferred, stop_if_asked

# The judge that counts is the network as it was loaded.
JUDGE = "float32"


@dataclass(frozen=True)
class PreparedAttack:
    """The network as loaded, its frozen copy that the attack sees, the images, and what identifies network and data."""

    network: nn.Module
    copy: Frozen
    dataset: Dataset
    images: int
    weights: dict[str, str]
    data: dict[str, str] = field(default_factory=dict)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels [n, C, H, W] and labels [n] of the test images at ``places``, int64 [n]."""
        test = self.dataset.test
        at = places.to(test.labels.device)
        return to_pixels(test.images[at], channels_last=True), test.labels[at]


@dataclass(frozen=True)
class Shard:
    """One batch: each image's verdicts, by the dtype of the judge.

    clean: whether it is correct as it is. robust: whether that, and correct after the attack too. distance: of the
    farthest adversarial image, in the norm.
    """

    clean: dict[str, list[bool]]
    robust: dict[str, list[bool]]
    distance: float
    seconds: float
    model_seconds: float


def save_shard(path: Path, shard: Shard) -> None:
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(asdict(shard)))


def load_shard(path: Path) -> Shard:
    """Read a shard. Raises CheckpointError naming the file where it is damaged."""
    try:
        return Shard(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete it and add --resume") from None


def prepare(config: AttackConfig, dataset: Dataset | None = None) -> PreparedAttack:
    """Load the network and, unless it is given, the data. Raises DataError, CheckpointError or ConfigError."""
    dataset = config.load_data(config.device) if dataset is None else dataset
    images = len(dataset.test) if config.n is None else config.n
    if images > len(dataset.test):
        raise ConfigError(f"n: {images}, expected at most {len(dataset.test)}, the test images of {config.data}")
    classes = len(dataset.class_names)
    network = catalogue.build(config.model, num_classes=classes, image_shape=dataset.image_shape, field="model")
    classifier = Classifier.of(network, dataset.mean, dataset.std).eval().requires_grad_(False)
    torch.nn.utils.convert_conv2d_weight_memory_format(classifier.to(config.device), torch.channels_last)
    check_fit("model", config.model, classifier, torch.zeros(1, *dataset.image_shape, device=config.device), classes)
    if config.checkpoint is None:
        weights = {"Weights SHA-256": sha256_of_tensors(network.state_dict())}
    else:
        choice = load_weights(network, config.checkpoint, name=config.model)
        weights = {"Checkpoint SHA-256": sha256_of_file(config.checkpoint)}
        if choice is not None:
            weights["Weights"] = choice
    if normalises(network):
        weights["Normalisation"] = "the network's own"
    copy = freeze(classifier, dtype=getattr(torch, config.dtype))
    data = datasets.image_facts(config.data, test=dataset.test)
    return PreparedAttack(classifier, copy, dataset, images, weights, data)


def check_same(config: AttackConfig, prepared: PreparedAttack, processes: Processes) -> None:
    """Raise ConfigError where the processes would not all attack the same network and images, in one verdict."""
    facts = {"model": prepared.weights, "data": prepared.data}
    differing = processes.differing_facts(facts, device=config.device)
    if "model" in differing:
        raise ConfigError(
            f"model: {config.model!r} is not the same network in all {processes.count} processes; seed what it draws,"
            " or give its weights as checkpoint"
        )
    if differing:
        raise ConfigError(f"data: {config.data!r} gives other test images in each of {processes.count} processes")


def attack_missing(config: AttackConfig, prepared: PreparedAttack, folder: Path) -> list[Shard]:
    """Attack every batch that has no shard in `folder` yet; return the shards of all batches."""
    batches = torch.arange(prepared.images).split(config.batch_size)
    files = {folder / "batches" / f"batch-{number:05d}.json": places for number, places in enumerate(batches)}
    # The last one may have fewer images than are asked for now.
    missing = [file for file in files if not file.exists() or len(load_shard(file).clean[JUDGE]) < len(files[file])]
    done = len(batches) - len(missing)
    if done:
        print(f"continuing: {done} of {len(batches)} batches are there", flush=True)
    if missing:
        # What torch loads and chooses in its first steps is no part of the time that an attack takes.
        _attack_places(config, prepared, batches[0][:1])
    label = f"{config.attack} on {config.model}"
    with Progress(label, done=done, total=len(batches), images_per_step=len(batches[0])) as progress:
        for file in missing:
            with deferred():
                shard = _attack_batch(config, prepared, files[file])
                save_shard(file, shard)
            stop_if_asked()
            progress.note(f"{statistics.mean(shard.robust[JUDGE]):.0%} of the last batch stand")
            progress.step()
    return [load_shard(file) for file in files]


def _attack_batch(config: AttackConfig, prepared: PreparedAttack, places: Tensor) -> Shard:
    x, labels, found, seconds, model_seconds = _attack_places(config, prepared, places)
    # One axis more than the images: several candidates for each, of which the worst counts. So does the image itself.
    candidates = found if found.dim() > x.dim() else found.unsqueeze(1)
    with_clean = torch.cat((x.unsqueeze(1), candidates), dim=1)
    judges = {config.dtype: prepared.copy, JUDGE: prepared.network}
    return Shard(
        clean={dtype: _correct(judge, with_clean[:, :1], labels) for dtype, judge in judges.items()},
        robust={dtype: _correct(judge, with_clean, labels) for dtype, judge in judges.items()},
        distance=distances(candidates, x.unsqueeze(1), config.keywords.get("norm", "l2")).max().item(),
        seconds=seconds,
        model_seconds=model_seconds,
    )


def _attack_places(
    config: AttackConfig, prepared: PreparedAttack, places: Tensor
) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Attack these test images: images, labels, what the attack finds, its seconds and those of them in the network."""
    x, labels = prepared.batch(places)
    attack, timed = config.build_attack(), TimedNetwork(prepared.copy, x.device)
    given = (labels,) if attack.reads_labels else ()
    try:
        return x, labels, *timed.time(lambda: attack(timed, x, *given, sample_ids=places.to(x.device)))
    except ValueError as error:
        raise ConfigError(f"{config.attack}: {error}") from error


@torch.no_grad()
def _correct(judge: nn.Module, candidates: Tensor, labels: Tensor) -> list[bool]:
    """Return whether all candidates [N, n, ...] of each image are classified as its label."""
    classes = torch.stack([judge(candidate).argmax(dim=1) for candidate in candidates.unbind(1)])
    return (classes == labels).all(dim=0).tolist()


def distances(found: Tensor, x: Tensor, norm: str) -> Tensor:
    """Return the distances of images [..., C, H, W] from ``x``, which broadcasts to them, in the norm, in float64."""
    order = float(norm.removeprefix("l"))  # inf, 2 or 1
    return torch.linalg.vector_norm((found.double() - x.double()).flatten(-3), ord=order, dim=-1)
