"""The fixture that walks the backends; Triton's interpreter made quicker."""

from collections.abc import Iterator

import pytest

from tests.ops import quick_interpreter
from tests.ops.available import BACKENDS, computing_on

quick_interpreter.install()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force for the whole test, on a GPU where it computes there."""
    with computing_on(request.param):
        yield request.param
