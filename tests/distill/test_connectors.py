"""The connector joins a student's map to a teacher's of another shape."""

import pytest
import torch
from torch import nn

from fastadv.distill.parts.connectors import connector


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 8, 8), (6, 8, 8)), ((4, 8, 8), (6, 4, 4)), ((4, 2, 2), (6, 4, 4)), ((4, 5, 7), (4, 4, 4))],
)
def test_shapes(student, teacher):
    x = torch.randn(3, *student)
    joined = connector(x, torch.zeros(1, *teacher))(x)
    assert joined.shape == (3, *teacher)
    assert (joined < 0).any()


def test_maps_of_one_shape_need_none():
    assert isinstance(connector(torch.zeros(2, 4, 3, 3), torch.zeros(1, 4, 3, 3)), nn.Identity)


def test_maps_that_cannot_be_joined():
    with pytest.raises(ValueError, match=r"student must have maps as large as the teacher's \[8, 8\].*got \[3, 3\]"):
        connector(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 8, 8))
