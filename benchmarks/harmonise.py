"""Where air, soft tissue and bone lie in scans before and after harmonisation, and how far another gain moves them.

    python benchmarks/harmonise.py SCAN [SCAN ...]

`bone` is the median of everything that is clearly denser than soft tissue (above 560 after harmonisation). `moved` is
the median change of a voxel, in HU, when the scan is multiplied by 0.5 and 2.6 and shifted by 700 beforehand.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from umamba2.engine.harmonise import anchors, harmonise
from umamba2.scans.volumes import read_volume

BONE = 560


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="+", type=Path)
    print(
        f"{'scan':36} {'as it is: air':>13} {'soft':>6} {'bone':>6}   {'after: air':>10} {'soft':>6} {'bone':>6}",
        end="",
    )
    print(f"   {'moved x0.5':>10} {'x2.6':>6}   {'seconds':>7}")
    for path in parser.parse_args().scans:
        scan = read_volume(path).array
        start = time.perf_counter()
        after = harmonise(scan)
        seconds = time.perf_counter() - start
        if anchors(scan) is None:
            continue  # harmonise has said so
        bone = after > BONE
        row = [*anchors(scan), np.median(scan[bone]), *anchors(after), np.median(after[bone])]
        moved = [np.median(np.abs(harmonise(np.rint(gain * scan + 700)) - after)) for gain in (0.5, 2.6)]
        before, now = ("".join(f"{v:7.0f}" for v in part) for part in (row[:3], row[3:]))
        print(f"{path.name[:36]:36} {before:>27}   {now:>24}   {moved[0]:10.1f} {moved[1]:6.1f}   {seconds:7.2f}")


if __name__ == "__main__":
    main()
