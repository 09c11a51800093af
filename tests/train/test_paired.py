"""The mean of paired differences and its interval."""

import pytest
from scipy import stats

from fastadv.train.report.intervals import paired_difference


def test_by_hand():
    # Differences 1, 2, 6: mean 3, s^2 = 7, t of 2 degrees of freedom 4.3027 (any table).
    found = paired_difference({0: 2.0, 1: 4.0, 2: 9.0}, {2: 3.0, 1: 2.0, 0: 1.0})
    half = 4.302653 * (7 / 3) ** 0.5
    assert (found.n, found.mean) == (3, 3.0)
    assert found.interval == pytest.approx((3 - half, 3 + half), abs=1e-5)


def test_agrees_with_scipys_paired_test():
    values, baseline = [0.3, 0.25, 0.4, 0.1, 0.37], [0.2, 0.27, 0.36, 0.05, 0.3]
    found = paired_difference(dict(enumerate(values)), dict(enumerate(baseline)))
    expected = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_only_common_seeds_are_paired():
    assert paired_difference({1: 5.0, 2: 7.0}, {2: 4.0, 3: 1.0}) == (1, 3.0, None)
    assert paired_difference({1: 5.0}, {2: 4.0}) is None


def test_equal_differences_have_an_interval_of_no_width():
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}) == (2, 0.5, (0.5, 0.5))
