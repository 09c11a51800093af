"""What the pages say of the trainer's results is what the committed results say."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from benchmarks.pages import trainer_table
from benchmarks.pages.markers import filled
from fastadv.train.report.results import read_results

pytest.importorskip("scipy.stats", reason="scipy, for paired comparisons, is not installed")

DEMO = trainer_table.RESULTS / trainer_table.DEMO


def write_run(results, name, methods, **config):
    """A run beside the demo's, whose configuration it has but for ``config``: accuracies by method and seed."""
    run = json.loads((DEMO / "results.json").read_text())
    run["config"].update(config)
    run["origin"]["Command"] = f"fastadv train --run-dir {name}"
    run["methods"] = [
        {
            "name": method,
            "label": method.upper(),
            "method": method,
            "seeds": [{"seed": seed, "clean": clean, "pgd": pgd} for seed, (clean, pgd) in enumerate(found)],
        }
        for method, found in methods.items()
    ]
    (results / name).mkdir()
    (results / name / "results.json").write_text(json.dumps(run))


@pytest.fixture
def results(tmp_path):
    shutil.copytree(DEMO, tmp_path / DEMO.name)
    return tmp_path


def systems(results):
    return trainer_table.pages(results)[trainer_table.RESULTS / "README.md"]["the systems"]


def cells(text, label):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_committed_pages_are_up_to_date():
    for page, sections in trainer_table.pages().items():
        text = page.read_text()
        for name, between in sections.items():
            assert filled(text, name, between) == text


def test_the_demo_is_shown_with_its_numbers_and_its_report(results):
    pages = trainer_table.pages(results)
    front, page = pages[trainer_table.ROOT / "README.md"], pages[trainer_table.RESULTS / "README.md"]
    for text in (front["what runs found"], page["the demo"]):
        for method in read_results(DEMO).methods:
            mean = 100 * sum(method.values("clean").values()) / len(method.seeds)
            assert f"| {mean:.2f} ± " in text
    assert "](benchmarks/results/digits-demo/report.md)" in front["what runs found"]
    assert "](digits-demo/report.md)" in page["the demo"]
    assert (DEMO / "report.md").exists()


def test_the_front_page_shows_what_was_found_on_cifar_100_too(results):
    write_run(results, "cifar100-cpu", {"kd": [(0.5, 0.3)], "tald": [(0.6, 0.2)]}, data="cifar100", student="resnet8")
    write_run(results, "other", {"bss": [(0.5, 0.3)]})
    text = trainer_table.pages(results)[trainer_table.ROOT / "README.md"]["what runs found"]
    assert cells(text, "TALD ") == ["1", "60.00", "+10.00", "20.00", "-10.00", "1"]
    line = " ".join(text[text.index("- digits_cnn to resnet8 on cifar100") :].split())
    assert re.match(r".*: \d+ epochs, PGD of eps [\d.]+; made at .* cores \(.*/cifar100-cpu/report\.md\)\)\.", line)
    assert "BSS" not in text


def test_students_are_compared_below_their_own_teacher(results):
    write_run(results, "robust", {"kd": [(0.5, 0.3), (0.6, 0.4)], "igdm": [(0.5, 0.5)]}, teacher_method="trades")
    write_run(results, "systems", {"ce": [(0.7, 0.1)] * 2, "kd": [(0.8, 0.1), (0.9, 0.1)], "tald": [(0.9, 0.1)]})
    text = systems(results)
    assert text.index("| *teacher (digits_cnn), plain (CE)*") < text.index("| TALD ")
    assert text.index("| TALD ") < text.index("| *teacher (digits_cnn), TRADES*") < text.index("| IGDM ")
    teacher = read_results(DEMO).teacher
    shown = [f"{100 * teacher[key]:.2f}" for key in ("clean", "pgd")]
    assert cells(text, "*teacher (digits_cnn), TRADES*") == ["1", shown[0], "", shown[1], "", ""]
    assert cells(text, "IGDM") == ["1", "50.00", "+0.00", "50.00", "+20.00", "1"]
    assert cells(text, "TALD") == ["1", "90.00", "+10.00", "10.00", "+0.00", "1"]
    # Of two differences, -10 and -20 points, t is 12.706 and s / sqrt(2) is 5.
    expected = ["2", "70.00 ± 0.00", "-15.00 [-78.53, +48.53]", "10.00 ± 0.00", "+0.00 [+0.00, +0.00]", "2"]
    assert cells(text, "CE") == expected
    assert "| 55.00 ± 7.07 | baseline " in text
    assert max(map(len, text.splitlines())) < 160


def test_a_run_without_kd_is_compared_with_its_first_method(results):
    write_run(results, "boundaries", {"bss": [(0.5, 0.2)], "amkd": [(0.4, 0.3)]})
    assert cells(systems(results), "BSS")[2] == "baseline"
    assert cells(systems(results), "AMKD")[1:] == ["40.00", "-10.00", "30.00", "+10.00", "1"]


def test_a_run_without_kd_is_part_of_one_of_the_same_teacher_and_training(results):
    write_run(results, "boundaries", {"bss": [(0.5, 0.2)], "amkd": [(0.4, 0.3)], "tald": [(0.8, 0.3)]}, threads=1)
    write_run(results, "systems", {"ce": [(0.7, 0.1)], "kd": [(0.8, 0.1)]})
    write_run(results, "longer", {"igdm": [(0.6, 0.2)]}, epochs=1000)
    text = systems(results)
    assert text.count("*teacher (digits_cnn), plain (CE)*") == 2
    assert text.index("| CE ") < text.index("| BSS ") < text.index("| IGDM ")
    assert cells(text, "BSS") == ["1", "50.00", "-30.00", "20.00", "+10.00", "1"]
    assert cells(text, "IGDM")[2] == "baseline"


def test_the_front_page_names_all_parts_of_a_comparison(results):
    write_run(results, "cifar100-cpu", {"kd": [(0.5, 0.3)]}, data="cifar100")
    write_run(results, "cifar100-cpu-controls", {"tald": [(0.6, 0.2)]}, data="cifar100")
    text = trainer_table.pages(results)[trainer_table.ROOT / "README.md"]["what runs found"]
    assert cells(text, "TALD ")[2] == "+10.00"
    (note,) = [" ".join(part.split()) for part in text.split("\n- ") if "cifar100-cpu/report.md" in part]
    assert re.search(r"made at .*/cifar100-cpu/report\.md\)\) and at .*/cifar100-cpu-controls/report\.md\)\)\.", note)


def test_what_all_runs_share_is_said_once_and_the_rest_of_each(results):
    write_run(results, "first", {"ce": [(0.5, 0.2)], "kd": [(0.5, 0.2)]})
    write_run(results, "second", {"kd": [(0.4, 0.3)]}, eval_eps=0.2, teacher_checkpoint="file")
    text = " ".join(systems(results).split())
    assert text.count("Clean accuracy: all 500 test images, after the last step.") == 1
    assert text.count("PGD: linf, eps 0.1 of pixels") == text.count("PGD: linf, eps 0.2 of pixels") == 1
    first, second = text.partition("- [first]")[2].split("- [second]")
    assert first.startswith("(first/report.md): Teacher: one network, trained on all 1297")
    assert re.search("Made by `fastadv train --run-dir first` at [0-9a-f]{7} on AMD EPYC, 2 cores[.]", first)
    assert "Teacher: one network, loaded." in second


def test_a_run_without_images_says_so(results):
    write_run(results, "data-free", {"data-free": [(0.5, 0.2)]}, student_samples="none")
    assert "each student trained for 150 epochs on no image." in " ".join(systems(results).split())


def test_each_student_and_dataset_has_a_table(results):
    assert systems(results) == "No run is committed."
    write_run(results, "one", {"kd": [(0.5, 0.2)]}, data="cifar100", student="resnet8")
    write_run(results, "other", {"kd": [(0.5, 0.2)]})
    assert [line for line in systems(results).splitlines() if line.startswith("#")] == [
        "### resnet8 on cifar100",
        "### digits_small on digits",
    ]
