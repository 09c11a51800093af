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
    ("backend", "arch", "dtype"),
    [
        # Nothing takes more registers on sm_80 than on its successors; bfloat16 is computed in float32.
        ("cuda", "80", "bfloat16"),
        ("cuda", "80", "float64"),
        ("cuda", "90", "float32"),
        ("cuda", "100", "float32"),
        ("hip", "gfx942", "float32"),
    ],
)
def test_every_launch_compiles(run_script, backend, arch, dtype):
    reports = run_script("compile_launches.py", backend, arch, dtype, interpret=False)
    assert {report["kernel"] for report in reports} == KERNELS
    assert [report for report in reports if report["spilled"]] == []
    assert [report for report in reports if report["shared"] > SHARED[backend] * 1024] == []
