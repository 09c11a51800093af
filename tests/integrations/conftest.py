"""The torchattacks that is installed."""

import pytest


@pytest.fixture
def torchattacks():
    reason = "torchattacks is not installed (pip install --no-deps torchattacks)"
    return pytest.importorskip("torchattacks", reason=reason)
