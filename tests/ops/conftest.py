"""The fixture that walks the backends."""

from collections.abc import Iterator

import pytest

from tests.ops.available import BACKENDS, computing_on


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force for the whole test, on a GPU where it computes there."""
    with computing_on(request.param):
        yield request.param
