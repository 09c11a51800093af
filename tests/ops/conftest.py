"""The fixture that walks the backends."""

from collections.abc import Iterator

import pytest
from available import BACKENDS, require_backend

import fastadv


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force for the whole test."""
    require_backend(request.param)
    with fastadv.use_backend(request.param):
        yield request.param
