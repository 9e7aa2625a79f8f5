import numpy as np
import pytest
import torch
from conftest import histogram_of

from export.histogram import BINS


def test_counts_everything_wherever_the_outlier_comes():
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=1000) for _ in range(5)] + [np.array([300.0, -250.0, 0.1])]
    histogram = histogram_of(*batches)
    values = np.abs(np.concatenate(batches))
    assert histogram.counts.sum() == values.size
    assert histogram.amax == np.float32(300.0)
    # The range doubled until it held the outlier, and no further.
    assert 300.0 <= histogram.upper < 600.0
    edges = histogram.edges()
    for share in (0.5, 0.9, 0.999, 1.0):
        bin_of_share = np.searchsorted(np.cumsum(histogram.counts), share * values.size)
        exact = np.quantile(values, share, method="inverted_cdf")
        # Bins only ever merge whole, so a quantile is off by at most its own bin.
        assert edges[bin_of_share] <= exact * (1 + 1e-6)
        assert exact <= edges[bin_of_share + 1] * (1 + 1e-6)


def test_size_does_not_grow_with_the_data():
    histogram = histogram_of(*(np.array([2.0**power]) for power in range(60)))
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 60


def test_zeros_before_the_first_value_are_counted_as_zeros():
    zeros = histogram_of(np.zeros(7))
    assert (zeros.amax, zeros.upper) == (0.0, 0.0)
    histogram = histogram_of(np.zeros(7), np.array([0.5, 1.0]))
    assert histogram.counts[0] == 7
    assert histogram.counts.sum() == 9


def test_counts_more_values_in_one_bin_than_float32_can_count():
    values = np.full((1 << 24) + 1000, 0.001, np.float32)
    values[0] = 1.0
    assert histogram_of(values).counts.sum() == values.size


@pytest.mark.parametrize("upper", [1e-42, 0.37, 1e30])
def test_counts_as_histc_does_bin_for_bin(upper):
    values = torch.rand(300_000, generator=torch.Generator().manual_seed(0)) * upper
    values[:BINS] = torch.arange(BINS) * (upper / BINS)  # on the very edges
    values[-1] = upper
    histogram = histogram_of(values.numpy())
    expected = torch.histc(values, bins=BINS, min=0, max=float(values.max()))
    assert histogram.counts.tolist() == expected.tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_what_has_no_range(bad):
    with pytest.raises(ValueError, match="cannot count"):
        histogram_of(np.array([1.0, bad, 2.0]))
