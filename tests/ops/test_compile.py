"""The public function of every op inside torch.compile: one graph, forward and backward, and a guard on the backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

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
    assert torch.equal(result, eager[0])
    assert result.stride() == eager[0].stride()
    if case.differentiable:
        for grad, expected in zip(case.gradients(result, leaves), eager[1:], strict=True):
            assert torch.equal(grad, expected)


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
