import pytest

from fastadv.train.report.intervals import wilson


# Table I of Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_failures_mirror_successes_and_ends_are_kept():
    low, high = wilson(7, 19)
    assert wilson(12, 19) == pytest.approx((1 - high, 1 - low))
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_raise(successes, trials):
    with pytest.raises(ValueError, match="expected 0 <= successes <= trials"):
        wilson(successes, trials)
