"""The public function of every op inside torch.compile: one graph, forward and backward, and a guard on the backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import fastadv
from tests.ops.available import require_on_cpu
from tests.ops.cases import CASES, FUSED, SIZES, Case, Draw


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def evaluate_compiled(case: Case, compiler: str) -> None:
    tensors = case.make(Draw(torch.float32), SIZES[case.sizes][0])
    eager = case.evaluate(FUSED, tensors)

    def call(t: dict[str, Tensor]) -> Tensor:
        return case.call(FUSED, t)

    compiled = torch.compile(call, fullgraph=True, backend=compiler)
    leaves = {name: t.clone().requires_grad_(name in case.differentiable) for name, t in tensors.items()}
    result = compiled(leaves)
    # A mean is divided behind the op, as its factor must not fix the batch size.
    torch.testing.assert_close(result, eager[0], rtol=0 if result.dim() else 4e-6, atol=0)
    assert result.stride() == eager[0].stride()
    if case.differentiable:
        for grad, expected in zip(case.gradients(result, leaves), eager[1:], strict=True):
            torch.testing.assert_close(grad, expected, rtol=0 if result.dim() else 4e-6, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_graph(case):
    evaluate_compiled(case, "aot_eager")


@pytest.mark.parametrize("name", ["pgd_step-linf-per-sample", "kl_distill"])
def test_inductor(name):
    (case,) = (case for case in CASES if case.name == name)
    evaluate_compiled(case, "inductor")


def test_in_place_step_changes_its_argument():
    draw = Draw(torch.float32)
    x, grad, x0 = draw.pixels((2, 3, 4, 4)), draw.gradient((2, 3, 4, 4)), draw.pixels((2, 3, 4, 4))

    def two_steps(x: Tensor) -> Tensor:
        fastadv.pgd_step_(x, grad, x0, eps=0.1, step_size=0.02)
        doubled = 2 * x
        fastadv.pgd_step_(x, grad, x0, eps=0.1, step_size=0.02)
        return doubled

    expected, actual = x.clone(), x.clone()
    doubled = two_steps(expected)
    assert torch.equal(torch.compile(two_steps, fullgraph=True, backend="aot_eager")(actual), doubled)
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, x)


def recorded_ops(graphs: list[torch.fx.GraphModule]) -> list[set[str]]:
    return [{str(node.target) for node in graph.graph.nodes if "fastadv" in str(node.target)} for graph in graphs]


def test_another_backend_is_another_graph():
    require_on_cpu("triton")
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x: fastadv.project(x, x, eps=0.1), fullgraph=True, backend=keep)
    x = torch.rand(2, 3)
    compiled(x)
    compiled(x)
    with fastadv.use_backend("reference"):
        compiled(x)
        with fastadv.use_backend("triton"):
            compiled(x)
    compiled(x)
    assert recorded_ops(graphs) == [
        {"fastadv.project.default"},
        {"fastadv.project.reference"},
        {"fastadv.project.triton"},
    ]


def test_compiled_backward_keeps_the_backend_of_its_forward():
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    compiled = torch.compile(fastadv.kl_distill, fullgraph=True, backend="aot_eager")
    with fastadv.use_backend("reference"):
        loss = compiled(student, teacher)
        expected = fastadv.kl_distill_value_and_grad(student, teacher)[1] / 4
    loss.backward()
    torch.testing.assert_close(student.grad, expected)


def test_another_batch_size_and_another_eps():
    compiled = torch.compile(lambda x, eps: fastadv.project(x, x + 0.2, eps=eps), fullgraph=True, backend="aot_eager")
    for samples, eps in ((2, 0.1), (5, 0.1), (0, 0.1), (7, 0.05)):
        x = torch.rand(samples, 3, 4)
        assert torch.equal(compiled(x, eps), fastadv.project(x, x + 0.2, eps=eps))


def test_bad_arguments_are_errors_inside_too():
    compiled = torch.compile(lambda x: fastadv.project(x, x, eps=-1.0), backend="aot_eager")
    with pytest.raises(ValueError, match="eps must not be negative"):
        compiled(torch.rand(2, 3))


LOSSES = {
    "kl_distill": lambda x, y: fastadv.kl_distill(x, y.flip(1)),
    "kd_loss": lambda x, y: fastadv.kd_loss(x, y.flip(1), y.argmax(1)),
    "triplet_margin_loss": lambda x, y: fastadv.triplet_margin_loss(x, y, y.flip(1)),
    "activation_boundary": lambda x, y: fastadv.activation_boundary_loss(x, y),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_mean_is_compiled_once_for_all_batch_sizes(loss):
    counter = CompileCounter()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    for samples in range(2, 8):
        x, y = torch.randn(samples, 5), torch.randn(samples, 5)
        torch.testing.assert_close(compiled(x, y), loss(x, y))
    assert counter.frame_count == 1


def test_a_mean_is_exported_for_any_batch_size():
    class Loss(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return fastadv.kl_distill(x, y)

    size = torch.export.Dim("samples", min=2)
    program = torch.export.export(Loss(), (torch.randn(4, 5), torch.randn(4, 5)), dynamic_shapes=({0: size}, {0: size}))
    x, y = torch.randn(2, 7, 5)
    torch.testing.assert_close(program.module()(x, y), fastadv.kl_distill(x, y))


def test_smoothed_labels_in_one_graph():
    x, y, target = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 4, 2, 1])

    def loss(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return fastadv.kd_loss(x, y, target, label_smoothing=0.1)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, target), loss(x, y, target))


def test_what_a_compiler_saw_is_not_kept_for_other_calls():
    class Proposal(torch.nn.Module):
        def forward(self, x: Tensor, query: Tensor) -> Tensor:
            return fastadv.square_propose(x, x, query, eps=0.1, norm="l2", seed=0)

    x, query = torch.rand(2, 3, 9, 7), torch.zeros(2, dtype=torch.int64)
    program = torch.export.export(Proposal(), (x, query))
    expected = Proposal()(x, query)
    assert type(expected) is Tensor
    assert torch.equal(program.module()(x, query), expected)
