"""Numbers settled by the arch. The mouths are those of the phantoms, whose true numbers are known."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from umamba2.anatomy.arches import LOWER_ARCH, UPPER_ARCH, average_place
from umamba2.engine import arch
from umamba2.engine.arch import renumber
from umamba2.synthetic.mouth import draw_mouth

WHOLE = [n for n in (*UPPER_ARCH, *LOWER_ARCH) if n % 10 < 8]


@cache
def mouth(seed: int, randomised: bool = False) -> tuple[list[int], np.ndarray]:
    """The FDI numbers of the teeth of a phantom and their middles in mm, (n, 3)."""
    drawn = draw_mouth(seed, randomised)
    teeth = [t for t in drawn.teeth if t.place == "tooth"]
    centres = [drawn.neck(t) + t.axes[2] * (t.crown - t.root) / 2 for t in teeth]
    return [t.fdi for t in teeth], np.array(centres)


def average(numbers=WHOLE):
    """Teeth on the average arch."""
    return list(numbers), np.array([average_place(n) for n in numbers])


def posed(centres: np.ndarray, seed: int) -> np.ndarray:
    """The same teeth in an array that lies anyhow, mirrored or not."""
    rng = np.random.default_rng(seed)
    matrix = Rotation.random(random_state=seed).as_matrix() * rng.choice([-1, 1])
    return centres @ matrix.T + rng.normal(0, 100, 3)


def renamed(numbers: list[int], **new: int) -> list[int]:
    """Numbers with some in place of others: ``n14=15``."""
    changes = {int(old[1:]): number for old, number in new.items()}
    return [changes.get(n, n) for n in numbers]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from([(1, 2, 3, 4), (1, 2), (3, 4), (1, 4), (2, 3), (1,), (4,)]),
    st.integers(0, 2**20),
)
def test_right_numbers_stay_whatever_is_missing_and_however_the_array_lies(seed, randomised, quadrants, pose):
    numbers, centres = mouth(seed, randomised)
    chosen = [i for i, n in enumerate(numbers) if n // 10 in quadrants]
    numbers = [numbers[i] for i in chosen]
    assert renumber(numbers, posed(centres[chosen], pose)) == arch.Renumbered(numbers)


@pytest.mark.parametrize("seed", range(8))
def test_right_numbers_stay_where_teeth_are_crowded_or_few(seed):
    rng = np.random.default_rng(seed)
    numbers, centres = average()
    assert renumber(numbers, centres + rng.normal(0, 1.0, centres.shape)).numbers == numbers
    chosen = sorted(rng.choice(len(numbers), 6, replace=False))
    few = [numbers[i] for i in chosen]
    assert renumber(few, centres[chosen]).numbers == few


@pytest.mark.parametrize("lost", [14, 26, 35, 41])
def test_right_numbers_stay_where_a_gap_has_closed(lost):
    """The teeth behind a lost one have moved to where the one before each was."""
    numbers, centres = average()
    places = dict(zip(numbers, centres))
    behind = [n for n in numbers if n // 10 == lost // 10 and n > lost]
    moved = {n: places[n - 1] for n in behind}
    left = [n for n in numbers if n != lost]
    assert renumber(left, np.array([moved.get(n, places[n]) for n in left])).numbers == left


WRONG = {
    "given twice, the one behind is wrong": {"n15": 14},
    "given twice, the one in front is wrong": {"n14": 15},
    "given twice across the midline": {"n11": 21},
    "shifted by one up to one given twice": {"n14": 15, "n15": 16},
    "shifted by one towards the midline": {"n36": 35, "n35": 34},
    "changed places": {"n24": 25, "n25": 24},
    "changed places at the end": {"n36": 37, "n37": 36},
    "a tooth of the other side": {"n13": 23},
    "two teeth that changed sides": {"n13": 23, "n23": 13},
    "a tooth of the other jaw": {"n16": 46},
    "a tooth of the other jaw and side": {"n42": 22},
    "several at once": {"n13": 23, "n36": 37, "n44": 45},
    "a quadrant of the other side": {f"n{n}": n + 10 for n in range(11, 18)},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("pose", range(3))
def test_wrong_numbers_are_put_right_however_the_array_lies(wrong, pose):
    numbers, centres = average()
    found = renumber(renamed(numbers, **wrong), posed(centres, pose))
    assert found == arch.Renumbered(numbers)


@pytest.mark.parametrize(
    ("lost", "wrong"),
    [((22,), {"n23": 24}), ((14, 15), {"n16": 17}), ((36, 46, 26), {"n35": 34}), ((11, 21), {"n12": 13}),
     ((16,), {"n15": 14})],
)  # fmt: skip
def test_a_gap_keeps_its_width(lost, wrong):
    numbers, centres = average([n for n in WHOLE if n not in lost])
    assert renumber(renamed(numbers, **wrong), centres).numbers == numbers


def test_a_mirrored_map_stays_mirrored_and_is_put_right_in_its_own_way():
    numbers, centres = average()
    flipped = centres * [-1, 1, 1]
    assert renumber(numbers, flipped) == arch.Renumbered(numbers)
    assert renumber(renamed(numbers, n14=15), flipped) == arch.Renumbered(numbers)


def test_most_mistakes_in_the_mouths_of_phantoms_are_put_right():
    """One tooth takes its neighbour's number; 15 mouths, with teeth missing."""
    right = tried = 0
    for seed in range(15):
        numbers, centres = mouth(seed)
        rng = np.random.default_rng(seed)
        teeth = [n for n in numbers if n + 1 in numbers and n % 10 < 7]
        one = int(rng.choice(teeth))
        pair = (one, one + 1) if rng.random() < 0.5 else (one + 1, one)
        found = renumber([pair[1] if n == pair[0] else n for n in numbers], posed(centres, seed))
        right += found.numbers == numbers
        tried += 1
    assert right >= 0.9 * tried


def test_parts_of_one_tooth_are_one_tooth():
    numbers, centres = average()
    i = numbers.index(36)
    parts = [*centres, centres[i] + [1.0, 2.0, -8.0]]  # a root below its crown
    assert renumber([*numbers, 36], np.array(parts)).numbers == [*numbers, 36]


def test_more_teeth_than_numbers_are_left():
    """A tooth too many in a full arch has no number to take, and the others keep theirs."""
    numbers, centres = average([*UPPER_ARCH, *LOWER_ARCH])
    i, j = numbers.index(13), numbers.index(14)
    found = renumber([*numbers, 14], np.vstack([centres, (centres[i] + centres[j]) / 2]))
    assert found.numbers[:-1] == numbers


def test_too_few_teeth_tell_nothing():
    centres = np.array([[0.0, 0, 0], [0, 9, 0], [0, 20, 0]])
    assert renumber([16, 16, 17], centres) == arch.Renumbered(
        [16, 16, 17], "found 16 twice and too few other teeth to tell"
    )
    assert renumber([16, 17], centres[:2]) == arch.Renumbered([16, 17])
    assert renumber([], np.zeros((0, 3))) == arch.Renumbered([])


@pytest.mark.parametrize("seed", range(5))
def test_numbers_without_any_order_stay_and_are_doubted(seed):
    rng = np.random.default_rng(seed)
    numbers, centres = average()
    shuffled = [int(n) for n in rng.permutation(numbers)]
    found = renumber(shuffled, centres)
    if found.numbers == shuffled:
        return
    # whatever is changed, no number is there twice in the jaws that were changed
    changed = {n for a, n in zip(shuffled, found.numbers) if a != n}
    assert all(found.numbers.count(n) == 1 for n in changed)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=4),
    st.lists(st.floats(-5, 45), min_size=4, max_size=4),
)
def test_the_cheapest_numbering_is_the_cheapest_of_all(teeth, at):
    """Against every rising numbering of up to four teeth on an arch of five places."""
    line = np.array([0.0, 7, 14, 24, 33])
    named, moved = [place for place, _ in teeth], [other for _, other in teeth]
    at = sorted(at)[: len(named)]

    def price(places):
        total = 0.0
        for i, place in enumerate(places):
            if place != named[i]:
                total += arch._CHANGE_OF_JAW if moved[i] else arch._CHANGE
                total += arch._WISDOM if place in (0, 4) else 0
            total += arch._MM_ASTRAY * min(abs(at[i] - line[place]), arch._MOST_MM)
            if i:
                before = places[i - 1]
                total += arch._SAME if before == place else 0
                off = abs((at[i] - at[i - 1]) - (line[place] - line[before]))
                total += arch._MM_BETWEEN * min(off, arch._MOST_MM)
        return total

    best = min(price(places) for places in combinations_with_replacement(range(5), len(named)))
    found = arch._cheapest(named, moved, at, line)
    assert found == sorted(found)
    assert price(found) == pytest.approx(best)


@pytest.mark.parametrize("quadrants", [(3,), (2, 3), (1,)])
@pytest.mark.parametrize("more", [(), (41, 42), (11, 12)])
def test_a_piece_of_an_arch_keeps_its_numbers_and_is_doubted(quadrants, more):
    """A field of view of one side: where its piece of the average arch lies is not certain enough."""
    numbers, centres = average([n for n in WHOLE if n // 10 in quadrants or n in more])
    wrong = renamed(numbers, n35=34, n15=14)
    found = renumber(wrong, posed(centres, 5))
    assert found.numbers == wrong
    assert "teeth out of order and" in found.problem
    assert "on one side, too few to tell" in found.problem


def test_few_teeth_of_the_other_jaw_stay_in_it():
    numbers, centres = average([n for n in WHOLE if n < 30] + [36, 37, 46, 47])
    lifted = centres + [[0, 0, 12.0] if n == 37 else [0, 0, 0] for n in numbers]
    assert renumber(numbers, posed(lifted, 3)).numbers == numbers
