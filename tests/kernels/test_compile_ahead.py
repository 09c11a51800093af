"""Every kernel compiles for the GPUs it is meant for, without spills and within shared memory; no GPU is needed."""

import pytest

KERNELS = {
    "ball_starts",
    "boundaries",
    "bss_samples",
    "change_unit",
    "compare",
    "gap_rows",
    "gather_elements",
    "gradient",
    "halve_parts",
    "length_parts",
    "linf_starts",
    "logit_loss_rows",
    "measure",
    "mix_elements",
    "move_elements",
    "move_parts",
    "move_samples",
    "noise_parts",
    "onto_planes",
    "pair_sums",
    "scale_rows",
    "sum_parts",
    "triplet_rows",
    "update",
    "windows",
}
# What a block may have on the smallest parts of each family, in KiB.
SHARED = {"cuda": 99, "hip": 64}


@pytest.mark.parametrize(
    ("backend", "arch", "dtype", "extent"),
    [
        # Nothing takes more registers on sm_80 than on its successors; bfloat16 is computed in float32.
        ("cuda", "80", "bfloat16", "all"),
        ("cuda", "80", "float64", "all"),
        ("cuda", "90", "float32", "once"),
        ("cuda", "100", "float32", "once"),
        ("hip", "gfx942", "float32", "all"),
    ],
)
def test_every_launch_compiles(run_script, backend, arch, dtype, extent):
    reports = run_script("compile_launches.py", backend, arch, dtype, extent, interpret=False)
    assert {report["kernel"] for report in reports} == KERNELS
    assert [report for report in reports if report["spilled"]] == []
    assert [report for report in reports if report["shared"] > SHARED[backend] * 1024] == []
