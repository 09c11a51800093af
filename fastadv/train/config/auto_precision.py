"""--precision auto: what the device of a run computes fast, in place of settings that nobody gave."""

from typing import Any

import torch

from fastadv.train.config.train_config import Config

# What "auto" decides.
CHOSEN = ("precision", "freeze_teacher", "teacher_precision", "channels_last", "capture", "compile")


def decided(config: Config) -> tuple[Config, dict[str, str]]:
    """Return ``config`` with its device's choices where precision is "auto", and the line of origin.json on them.

    bfloat16 for the student and for the teacher's copy on a GPU of compute capability 8.0 or newer and on a CPU with
    AVX512-BF16 or AMX, float32 elsewhere; where there is a teacher, a frozen copy of it; images and weights channels
    last; on a GPU captured attacks and a compiled student. What a recipe or a flag gives stays.
    """
    if config.precision != "auto":
        return config, {}
    device = torch.device(config.device)
    low, why = _fast_dtype(device)
    on_gpu = device.type == "cuda"
    values: dict[str, Any] = {"precision": low, "channels_last": True, "compile": on_gpu}
    values["capture"] = on_gpu and any(spec.claims("attacks") for spec in config.specs)
    if config.needs_teacher:
        values["freeze_teacher"] = True
        if config.freeze_teacher or "freeze_teacher" not in config.model_fields_set:
            values["teacher_precision"] = low
    config = filled(config, values)
    shown = ", ".join(f"{name} {getattr(config, name)}" for name in CHOSEN)
    return config, {"Precision": f"auto, {why}: {shown}"}


def filled(config: Config, values: dict[str, Any]) -> Config:
    """Return ``config``, whose precision is "auto", with ``values`` in place of what it was not given."""
    open_ = {name: value for name, value in values.items() if name not in config.model_fields_set}
    return config.replaced(**open_, precision=values["precision"])


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
