"""Clicks off their canal are said."""

import numpy as np

from umamba2.engine.session import Click
from umamba2.web.doubts import doubts


def test_clicks_off_their_canal():
    labels = np.zeros((20, 20, 40), np.uint8)
    labels[5:8, 5:15, 5:8], labels[5:8, 5:15, 30:33] = 2, 1
    ids, spacing = {"left": 1, "right": 2}, (0.5, 0.4, 0.3)
    on, beside = Click(1, "left", (6, 6, 31)), Click(2, "right", (6, 6, 9))
    other, air = Click(3, "left", (6, 6, 6)), Click(4, "right", (19, 19, 20))
    first, second = doubts([on, beside, other, air], labels, ids, spacing)
    assert (
        first
        == "click 3: found it off the left canal (it passes 7 mm away; it lies on the right one), expected it on it"
    )
    assert second.startswith("click 4: found it off the right canal (it passes ")
    assert "lies on" not in second
    labels[labels == 1] = 0
    assert "none was found" in doubts([on], labels, ids, spacing)[0]
    assert doubts([], labels, ids, spacing) == ()
