import json
from dataclasses import replace

import pytest
import torch

from benchmarks.studies import cheaper_particles
from benchmarks.studies.cheaper_particles import EPS, PARTICLES, STEPS, WAYS, Drawn, Result, Way
from fastadv.distill import TALD


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


def draw(method, teacher, ids):
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))[ids]
    return x, method._sample(teacher, x, ids % 10, 5, ids)[0]


def test_three_steps_from_noise_are_talds_own(teacher):
    method = Drawn(WAYS[0], 12, (1, 8, 8))
    x, particles = draw(method, teacher, torch.arange(12))
    plain = TALD(particles=PARTICLES, steps=STEPS, eps=EPS)
    assert torch.equal(particles, plain._sample(teacher, x, torch.arange(12) % 10, 5, torch.arange(12))[0])


def test_kept_particles_go_on_where_their_image_left_them(teacher):
    method = Drawn(Way("kept", 1), 12, (1, 8, 8))
    first = draw(method, teacher, torch.arange(12))[1]
    assert torch.equal(first, draw(Drawn(Way("noise", 1), 12, (1, 8, 8)), teacher, torch.arange(12))[1])
    ids = torch.tensor([7, 2])
    x, second = draw(method, teacher, ids)
    assert (second - first[ids]).abs().max() <= 2.5 * EPS / STEPS + EPS / 127
    assert (second - x[:, None]).abs().max() <= EPS * (1 + 1e-6)
    assert method.loss[1] > method.loss[0]


def test_a_shared_first_step_asks_the_teacher_less(teacher):
    rows = []
    teacher.register_forward_hook(lambda module, given, result: rows.append(len(result)))
    for way in (Way("shared", 2), Way("noise", 2)):
        rows.clear()
        draw(Drawn(way, 12, (1, 8, 8)), teacher, torch.arange(12))
        # The last is the study's own look at the particles.
        assert sum(rows[:-1]) == 12 * way.rows


def test_the_pages_have_every_way_and_student(tmp_path):
    one = Result("", 0, 0.9, 0.3, 1.0, 0.5, 0.1)
    results = [replace(one, way=way.name, seed=seed, clean=0.9 + seed / 100) for way in WAYS for seed in range(2)]
    cheaper_particles.write(tmp_path / "page", results, "the command")
    page = (tmp_path / "page.md").read_text()
    assert all(f"| {way.name} | {way.rows} | 0.50 | 0.1000 | 90.50 |" in page for way in WAYS)
    assert "| +0.00 [+0.00, +0.00] |" in page
    assert "Made by `the command` on" in page
    assert len(json.loads((tmp_path / "page.json").read_text())["students"]) == 2 * len(WAYS)
