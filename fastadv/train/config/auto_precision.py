"""--precision auto: what the device of a run computes fast, in place of settings that nobody gave."""

import itertools
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from fastadv.train.config.methods import options_of
from fastadv.train.config.train_config import Config

# What "auto" decides, beside the attack_mode of methods.
CHOSEN = ("precision", "freeze_teacher", "teacher_precision", "channels_last", "capture", "compile")
# The attack_mode of a frozen copy in a precision.
ATTACK_MODES = {"float32": "frozen", "bfloat16": "frozen-bfloat16"}


def decided(config: Config) -> tuple[Config, dict[str, str]]:
    """Return ``config`` with its device's choices where precision is "auto", and the line of origin.json on them.

    bfloat16 for the student and for the frozen copies that are attacked on a GPU of compute capability 8.0 or newer and
    on a CPU with AVX512-BF16 or AMX, float32 elsewhere; where there is a teacher, a frozen copy of it, and where a
    method attacks the student in evaluation mode, a frozen copy of that; images and weights channels last; compiled
    networks, on a CPU where that is bfloat16 and a C++ compiler is found; on a GPU captured attacks. Float32 everywhere
    where a method needs it. What a recipe or a flag gives stays.
    """
    if config.precision != "auto":
        return config, {}
    device = torch.device(config.device)
    low, why = _fast_dtype(device)
    if low != "float32" and (exact := in_need_of_float32(config)):
        low, why = "float32", f"{' and '.join(exact)}, whose samples lie nearer to their images than {low} resolves"
    on_gpu = device.type == "cuda"
    values: dict[str, Any] = {
        "precision": low,
        "channels_last": True,
        "compile": on_gpu or (low == "bfloat16" and _has_cxx_compiler()),
    }
    values["capture"] = on_gpu and any(spec.claims("attacks") for spec in config.specs)
    if config.needs_teacher:
        values["freeze_teacher"] = True
        if config.freeze_teacher or "freeze_teacher" not in config.model_fields_set:
            values["teacher_precision"] = low
    config = filled(config, values, fast_attack_modes(config, low))
    shown = [f"{name} {getattr(config, name)}" for name in CHOSEN]
    shown += [f"attack_mode {mode} of {name}" for name, mode in attack_modes(config).items()]
    return config, {"Precision": f"auto, {why}: {', '.join(shown)}"}


def filled(config: Config, values: dict[str, Any], modes: Mapping[str, str]) -> Config:
    """Return ``config`` in the precision of ``values``, with the others in place of what it was not given.

    modes: the attack_mode of methods, by the names of their tables.
    """
    open_ = {name: value for name, value in values.items() if name not in config.model_fields_set}
    tables = {name: {"attack_mode": mode, **config.options.get(name, {})} for name, mode in modes.items()}
    return config.replaced(**open_, precision=values["precision"], options={**config.options, **tables})


def attack_modes(config: Config) -> dict[str, str]:
    """Return the attack_mode that each table of options has, where it has one."""
    return {name: table["attack_mode"] for name, table in config.options.items() if "attack_mode" in table}


def fast_attack_modes(config: Config, precision: str) -> dict[str, str]:
    """Return the attack_mode, a frozen copy in ``precision``, of all that attack in evaluation mode when not told.

    By the names of the specs, and of those they are built on.
    """
    found = {}
    specs = [*config.specs, *([config.teacher_spec] if config.trains_teacher else [])]
    for spec in itertools.chain.from_iterable(each.parts() for each in specs):
        mode = options_of(spec.kind).get("attack_mode")
        if mode is not None and mode.default == "eval" and "attack_mode" not in spec.options:
            found[spec.name] = ATTACK_MODES[precision]
    return found


def in_need_of_float32(config: Config) -> list[str]:
    """Return the methods of a run, by their names in tables, that half precision would make another."""
    return [spec.name for spec in config.specs if any(part.needs_float32 for part in spec.build().parts())]


def _has_cxx_compiler() -> bool:
    """Return whether torch.compile finds what it needs on a CPU."""
    return any(map(shutil.which, torch._inductor.config.cpp.cxx[1:]))


def _fast_dtype(device: torch.device) -> tuple[str, str]:
    """Return the precision that ``device`` has units for, and how that is known."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return ("bfloat16" if major >= 8 else "float32"), f"compute capability {major}.{minor}"
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        units = [name for key, name in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX")) if has.get(key)]
        return ("bfloat16", f"a CPU with {units[-1]}") if units else ("float32", "a CPU without AVX512-BF16 and AMX")
    return "float32", f"a device of type {device.type}"
