"""Our own reader of metrics sees what it is there for."""

import pytest
from exposition import problems

GOOD = """# HELP a_total A.
# TYPE a_total counter
a_total{x="1"} 1
a_total{x="2"} 2
# HELP h_seconds H.
# TYPE h_seconds histogram
h_seconds_bucket{le="0.1"} 1
h_seconds_bucket{le="+Inf"} 2
h_seconds_sum 3
h_seconds_count 2
"""


def test_good_text_has_no_problems():
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('a_total{x="2"}', 'a_total{x="1"}', "stands there twice"),
        ('h_seconds_bucket{le="0.1"} 1', 'h_seconds_bucket{le="0.1"} 3', "buckets fall"),
        ('h_seconds_bucket{le="+Inf"} 2\n', "", "no +Inf"),
        ("h_seconds_count 2", "h_seconds_count 5", "_count is 5"),
        ('a_total{x="2"} 2', 'a_total{x="2"} -2', "below 0"),
        ("# HELP a_total A.\n", "", "no HELP"),
        ("h_seconds_count 2\n", 'h_seconds_count 2\na_total{x="3"} 1\n', "torn apart"),
        ("a_total", "a-total", "cannot be read"),
    ],
)
def test_each_mistake_is_seen(old, new, says):
    assert any(says in problem for problem in problems(GOOD.replace(old, new)))
