"""A student under DistributedDataParallel in two processes takes the steps of one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distill import processes_distill


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(processes_distill.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([*command, script, folder], capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", [*processes_distill.METHODS, "by hand"])
def test_two_processes_take_the_steps_of_one(together, name):
    by_hand = name == "by hand"
    expected = processes_distill.train("kd" if by_hand else name, 0, 1)
    first, second = (found[name] for found in together)
    assert first.keys() == second.keys() == expected.keys()
    for key, value in expected.items():
        ours = (first[key] + second[key]) / 2 if by_hand and key == "losses" else first[key]
        torch.testing.assert_close(ours, value, atol=2e-6, rtol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
        if not (by_hand and key == "losses"):
            assert torch.equal(first[key], second[key]), key


def test_a_student_in_a_group_of_its_own_takes_its_steps_alone(together):
    for rank, found in enumerate(together):
        expected = processes_distill.train("kd", 0, 1, data=rank)
        torch.testing.assert_close(found["own group"], expected, atol=2e-6, rtol=2e-5)


def test_a_method_that_remembers_images_is_refused_in_two(together):
    assert together[0]["crd"] == "CRD remembers the images that its process saw: train it in one process, got 2"
