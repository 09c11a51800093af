"""--precision auto: what a device is fast in, kept for the whole run, with what was given left as it is."""

import json

import pytest
import torch

from fastadv.distill import distiller
from fastadv.train.cli import main
from fastadv.train.config.auto_precision import attack_modes, decided
from fastadv.train.config.resume import continued_config
from fastadv.train.config.train_config import Config, resolve

SHORT = ["--seeds=0", "--teacher-epochs=1", "--student-samples=50", "--eval-steps=1", "--no-tensorboard"]


def having(monkeypatch, *units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))


def chosen(**flags):
    config, facts = decided(resolve(flags={"precision": "auto", **flags}))
    return config, facts["Precision"]


@pytest.mark.parametrize(
    ("units", "precision", "why"),
    [
        ([], "float32", "auto, a CPU without AVX512-BF16 and AMX: "),
        (["avx512_bf16"], "bfloat16", "auto, a CPU with AVX512-BF16: "),
        (["avx512_bf16", "amx_bf16"], "bfloat16", "auto, a CPU with AMX: "),
    ],
)
def test_a_cpu_computes_in_what_it_has_units_for(monkeypatch, units, precision, why):
    having(monkeypatch, *units)
    config, fact = chosen(methods="tald")
    assert (config.precision, config.teacher_precision) == (precision, precision)
    assert config.freeze_teacher
    assert config.channels_last
    assert not config.capture
    assert config.compile == bool(units)
    assert fact.startswith(why + f"precision {precision}, freeze_teacher True, teacher_precision {precision}")


def test_samples_too_near_for_half_precision_are_drawn_in_float32(monkeypatch):
    having(monkeypatch, "avx512_bf16")
    config, fact = chosen(methods="kd,tald", options=["tald.variant=released"])
    assert (config.precision, config.teacher_precision, config.compile) == ("float32", "float32", False)
    assert fact.startswith("auto, tald, whose samples lie nearer to their images than bfloat16 resolves: precision ")
    config, _ = chosen(methods="kd,tald", options=["tald.variant=released", "tald.samples=none"])
    assert config.precision == "bfloat16"


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    having(monkeypatch, "avx512_bf16")
    monkeypatch.setenv("PATH", "")
    config, _ = chosen(methods="tald")
    assert (config.precision, config.compile) == ("bfloat16", False)


@pytest.mark.parametrize(("units", "mode"), [([], "frozen"), (["avx512_bf16"], "frozen-bfloat16")])
def test_a_student_that_is_attacked_in_eval_mode_is_attacked_in_a_frozen_copy(monkeypatch, units, mode):
    having(monkeypatch, *units)
    options = ["igdm.base=adaad", "igdm.alpha=3", "trades.attack_mode=train"]
    config, fact = chosen(methods="igdm,trades,ard,kd", teacher_method="pgd-at", options=options)
    assert attack_modes(config) == {"adaad": mode, "trades": "train", "pgd-at": mode}
    assert config.options["igdm"] == {"base": "adaad", "alpha": 3}
    assert fact.endswith(f"attack_mode {mode} of pgd-at")
    assert "pgd-at" not in attack_modes(chosen(methods="ce", teacher_method="pgd-at")[0])


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
@pytest.mark.parametrize(("method", "captured"), [("kd", False), ("tald", True)])
def test_a_gpu_also_captures_attacks_and_compiles_the_student(monkeypatch, capability, precision, method, captured):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config, fact = chosen(device="cuda", methods=method)
    assert (config.precision, config.capture, config.compile) == (precision, captured, True)
    assert fact.startswith(f"auto, compute capability {capability[0]}.{capability[1]}: ")


def test_what_is_given_stays(monkeypatch):
    having(monkeypatch, "avx512_bf16")
    config, _ = chosen(methods="tald", freeze_teacher=False, channels_last=False, compile=True)
    assert (config.precision, config.teacher_precision) == ("bfloat16", "float32")
    assert (config.freeze_teacher, config.channels_last, config.compile) == (False, False, True)
    config, _ = chosen(methods="tald", freeze_teacher=True, teacher_precision="float32")
    assert (config.precision, config.teacher_precision) == ("bfloat16", "float32")
    config, _ = chosen(methods="ce")
    assert not config.freeze_teacher
    same = resolve(flags={"precision": "bfloat16"})
    assert decided(same) == (same, {})


def test_a_run_keeps_what_it_began_with_and_says_how_far_that_is_from_float32(monkeypatch, tmp_path, capsys, graphs):
    having(monkeypatch, "avx512_bf16")
    seen = []
    monkeypatch.setattr(distiller, "Float32Output", _watched(distiller.Float32Output, seen))
    assert main(["train", "--run-dir", str(tmp_path), "--methods=kd", "--epochs=1", "--precision=auto", *SHORT]) == 0
    assert "precision: auto, a CPU with AVX512-BF16: precision bfloat16" in capsys.readouterr().out
    stored = Config(**Config.read_toml(tmp_path / "config.toml"))
    assert (stored.precision, stored.teacher_precision, stored.freeze_teacher) == ("bfloat16", "bfloat16", True)
    [note] = json.loads((tmp_path / "kd-seed0" / "result.json").read_text())["notes"]
    assert note.startswith("in bfloat16 the student's logits lie within 0.")
    assert note.endswith("test images; accuracies are float32's")
    report = (tmp_path / "report.md").read_text()
    assert note in report
    assert json.loads((tmp_path / "origin.json").read_text())["Precision"] in report

    having(monkeypatch)
    # A method that is added attacks as if it had been there from the beginning.
    for flags in ({"methods": "pgd-at"}, {"methods": "pgd-at", "precision": "auto"}):
        added = continued_config(tmp_path, recipe=None, flags=flags)
        assert added.options["pgd-at"]["attack_mode"] == "frozen-bfloat16"
    told = {"methods": "pgd-at", "options": ["pgd-at.attack_mode=eval"]}
    assert continued_config(tmp_path, recipe=None, flags=told).options["pgd-at"]["attack_mode"] == "eval"
    again = ["train", "--resume", "--run-dir", str(tmp_path), "--precision=auto"]
    assert main([*again, "--seeds=0,1"]) == 0
    stored = Config(**Config.read_toml(tmp_path / "config.toml"))
    assert (stored.precision, stored.teacher_precision) == ("bfloat16", "bfloat16")
    # The teacher and two students, the second of which is begun where nothing asks for bfloat16.
    assert seen == [(torch.bfloat16, True)] * 3
    assert graphs
    capsys.readouterr()
    assert main([*again, "--no-channels-last"]) != 0
    assert "channels_last True -> False" in capsys.readouterr().err


def test_a_run_in_bfloat16_says_what_is_lost_in_it(tmp_path):
    released = ["--methods=tald", "--option=tald.variant=released", "--option=tald.steps=1", "--option=tald.eps=1e-4"]
    told = [*released, "--epochs=1", "--precision=bfloat16", *SHORT]
    assert main(["train", "--run-dir", str(tmp_path), *told]) == 0
    notes = json.loads((tmp_path / "tald-seed0" / "result.json").read_text())["notes"]
    assert notes[0].startswith("in bfloat16 the samples are rounding noise")


def test_float32_needs_no_note(tmp_path):
    assert main(["train", "--run-dir", str(tmp_path), "--methods=ce", "--epochs=1", *SHORT]) == 0
    assert json.loads((tmp_path / "ce-seed0" / "result.json").read_text())["notes"] == []


def _watched(kind, seen):
    class Watched(kind):
        def __init__(self, network, *, autocast=None, compiled=False):
            seen.append((autocast, compiled))
            super().__init__(network, autocast=autocast, compiled=compiled)

    return Watched
