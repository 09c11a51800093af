"""The last evaluation of a run's students: the attack that --eval-attack names, as `fastadv attack` makes it."""

import json
import shutil
from functools import partial
from pathlib import Path

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.resume import extend_attack, known_facts
from fastadv.train.config.run_folder import open_run, read_origin, read_result, student_folder, student_result
from fastadv.train.config.train_config import Config, DataConfig
from fastadv.train.data.datasets import image_facts
from fastadv.train.data.splits import Dataset
from fastadv.train.robustness import attack_report, ensemble_report
from fastadv.train.robustness.attack_split import check_same, prepare
from fastadv.train.runtime.digests import sha256_of_file
from fastadv.train.runtime.files import write_text
from fastadv.train.runtime.processes import Processes

# What AutoAttack tells of first, so that something is there where the time ends before all is attacked.
FIRST_IMAGES = 200


def attack_students(config: Config, dataset: Dataset, folder: Path, processes: Processes) -> None:
    """Attack each trained student of the run in `folder` that was not yet, unless config.eval_attack is PGD.

    The student's folder gets `attack/`, and its result.json "attack": name, images, "correct", "accuracy", "interval".
    AutoAttack takes FIRST_IMAGES and then the rest; until that is over, `attack/result.json` alone tells of them.
    """
    if config.eval_attack == "pgd":
        return
    bounds = (len(dataset.test), config.eval_samples, config.pgd_samples)
    images = min(bound for bound in bounds if bound is not None)
    counts = sorted({min(FIRST_IMAGES, images), images}) if config.eval_attack == ENSEMBLE else [images]
    for seed in config.seeds:
        for spec in config.specs:
            student = student_folder(folder, spec.name, seed)
            found = partial(student_result, folder, spec.name, seed, epochs=config.epochs)
            result = processes.broadcast_from_rank0(found)
            if result is not None and "attack" not in result:
                for count in counts:
                    _attack(config, dataset, student, count, processes)
                if processes.first:
                    _write_result(config, student, images)


def _attack(config: Config, dataset: Dataset, student: Path, images: int, processes: Processes) -> None:
    asked = AttackConfig(
        **{name: getattr(config, name) for name in (*DataConfig.model_fields, "device")},
        model=config.student,
        checkpoint=student / "weights.pt",
        n=images,
        attack=config.eval_attack,
        eps=config.eval_eps,
        allow_large_eps=True,
        batch_size=config.eval_batch_size,
    )
    out, checkpoint = student / "attack", student / "weights.pt"
    facts = {"Checkpoint SHA-256": sha256_of_file(checkpoint), **image_facts(config.data, test=dataset.test)}
    evaluate = ensemble_report.evaluate if config.eval_attack == ENSEMBLE else attack_report.evaluate

    def begun() -> bool:
        there = (out / AttackConfig.FILE).exists()
        if there and known_facts(out, facts).items() - read_origin(out).items():
            # Of the same student after fewer epochs, or on other images, or in another order.
            shutil.rmtree(out)
            return False
        return there

    command = f"fastadv train --eval-attack {config.eval_attack}"
    with open_run(
        asked,
        processes,
        resumed=out if processes.broadcast_from_rank0(begun) else None,
        named=lambda: out,
        command=command,
        facts=facts,
        extend=lambda folder: extend_attack(folder, asked, facts, command=command),
    ):
        print(f"{student.name}: {config.eval_attack} on {images} test images, in {out}", flush=True)
        prepared = prepare(asked, dataset)
        check_same(asked, prepared, processes)
        evaluate(asked, prepared, out, processes, show=lambda summary: None)


def _write_result(config: Config, student: Path, images: int) -> None:
    found = read_result(student / "attack")
    share = found["robust"] if "robust" in found else found["accuracy"][found["judge"]]["robust"]
    result = {**read_result(student), "attack": {"name": config.eval_attack, "images": images, **share}}
    write_text(student / "result.json", json.dumps(result))
    print(f"{student.name}: {share['accuracy']:.2%} under {config.eval_attack}", flush=True)
