"""The simulator finds what a GPU would only show now and then."""

from __future__ import annotations

import ctypes

import pytest
import torch

OF_CLUSTER = "0 at that of the cluster, "


def run(simulator: ctypes.CDLL, name: str) -> tuple[torch.Tensor, str]:
    """Return the output of the kernel ``name`` of faulty_kernels.cu, and the error that ended it."""
    out, message = torch.full([64], -1.0), ctypes.create_string_buffer(200)
    simulator.run_faulty(name.encode(), ctypes.c_void_p(out.data_ptr()), message, ctypes.c_size_t(len(message)))
    return out, message.value.decode()


def test_a_correct_kernel_runs(simulator):
    out, error = run(simulator, "reverse")
    assert error == ""
    assert torch.equal(out, torch.arange(63.0, -1, -1))


def test_a_missing_barrier_shows_as_the_poison_of_shared_memory(simulator):
    # Warps run in a random order, some of which leave nothing to be seen.
    runs = [run(simulator, "reverse_without_barrier") for _ in range(20)]
    assert {error for _, error in runs} == {""}
    assert any(out.isnan().any() for out, _ in runs)


def test_blocks_of_a_cluster_reach_each_other(simulator):
    out, error = run(simulator, "face_the_other_block")
    assert error == ""
    assert torch.equal(out, torch.arange(63.0, -1, -1))
    runs = [run(simulator, "face_the_other_block_without_barrier") for _ in range(20)]
    assert {error for _, error in runs} == {""}
    assert any(out.isnan().any() for out, _ in runs)


def test_copies_arrive_only_where_they_are_awaited(simulator):
    out, error = run(simulator, "copy_and_reverse")
    assert error == ""
    assert torch.equal(out, torch.full([64], -1.0))
    out, error = run(simulator, "copy_without_waiting")
    assert error == ""
    assert out.isnan().all()


@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        ("barrier_for_some", f"threads wait for others: 80 at a barrier, {OF_CLUSTER}0 in a warp operation, 48 done"),
        ("shuffle_for_some", f"threads wait for others: 0 at a barrier, {OF_CLUSTER}80 in a warp operation, 48 done"),
        (
            "cluster_barrier_for_some",
            "threads wait for others: 0 at a barrier, 80 at that of the cluster, 0 in a warp operation, 48 done",
        ),
        ("block_that_has_ended", "the block whose shared memory is wanted has ended"),
        ("shuffle_outside_of_its_mask", "a thread is not in the mask of its own warp operation"),
        ("shuffle_from_outside_of_the_mask", "a thread reads from a lane that is not in the mask"),
        ("different_shuffles", "the threads of a warp meet in different operations"),
        ("too_much_shared_memory", "a block uses more than 48 KiB of shared memory"),
    ],
)
def test_undefined_behaviour_is_an_error(simulator, kernel, error):
    assert run(simulator, kernel)[1] == f"simulator: {error}"
