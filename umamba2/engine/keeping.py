"""What is kept of a scan that is clicked on, so that the next answer costs little: as much as memory allows.

Clicks enter a network at its bottleneck. What it finds on the way there depends on the scan alone and is kept for
each tile, fold and mirror image, in the form in which the decoder wants it; so is the last answer of each tile, which
stands as long as the clicks on that tile do. Nothing that is kept changes a result: on a CPU it is the same to the bit.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from umamba2.engine.cpu import FastDecoder, activations
from umamba2.engine.dental_field import Box, FirstLook
from umamba2.engine.preprocess import Prepared
from umamba2.nets import ClickTensors, UMamba2
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks

RESERVED_BYTES = 2**29  # of the memory: for the labels, and what is worked on at once

Place = tuple[int, ...]  # of a tile among the tiles, (z, y, x)
How = tuple[object, ...]  # whatever else decides a result: fold, mirror images, device, precision


@dataclass(frozen=True)
class _Kept:
    tensors: list[Tensor]
    spare: bool  # not for the quick answers while clicking: goes first
    of: object = None  # what else it holds for
    scanned: Tensor | None = None  # of the bottleneck, by the Mamba-2 layer

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors) + (0 if self.scanned is None else self.scanned.nbytes)


class Keeper:
    """What is kept of one scan.

    Where memory is short, what was not used for the longest time goes first, but for what the answer in progress needs.

    Args:
        most: How many bytes to keep at most; None: as many as memory allows.

    Attributes:
        prepared: The scan on the network's grid, once it is there; of a scan larger than a dental field, that of `box`.
        first_look: What a look at all of such a scan has shown.
        box: The part of it that all else here is about.
    """

    def __init__(self, most: int | None = None):
        self.most = most
        self.prepared: Prepared | None = None
        self.first_look: FirstLook | None = None
        self.box: Box | None = None
        self._features: OrderedDict[tuple[Place, How], _Kept] = OrderedDict()  # the oldest first
        self._answers: OrderedDict[tuple[Place, How], _Kept] = OrderedDict()
        self._needed: frozenset[Place] = frozenset()
        _keepers.add(self)

    @property
    def bytes(self) -> int:
        """How much memory is taken, beside the prepared scan."""
        return sum(kept.bytes for shelf in (self._features, self._answers) for kept in shelf.values())

    def need(self, places: Iterable[Place]) -> None:
        """Say which tiles the answer in progress runs."""
        self._needed = frozenset(places)

    def answer(self, place: Place, how: How, clicks: Clicks | None) -> Tensor | None:
        """The logits of a tile with just these clicks, which must not be changed; None if they are not kept."""
        kept = self._answers.get((place, how))
        if kept is None or kept.of != _fingerprint(clicks):
            return None
        self._answers.move_to_end((place, how))
        return kept.tensors[0]

    def keep_answer(self, place: Place, how: How, clicks: Clicks | None, logits: Tensor, working: int) -> None:
        """Keep a copy of a tile's logits if there is memory for it.

        Args:
            place: The tile.
            how: See `run`.
            clicks: Those on the tile.
            logits: (classes, z, y, x).
            working: See `run`.
        """
        self._answers.pop((place, how), None)
        while not self._fits(logits.nbytes, working, logits.device, 0):
            if not self._drop(self._features, everything=True):
                return
        # A copy, because memory for activations comes in blocks that may be much larger.
        self._answers[place, how] = _Kept([logits.clone()], False, _fingerprint(clicks))

    def run(
        self,
        place: Place,
        how: How,
        spare: bool,
        net: UMamba2,
        tiles: Tensor,
        clicks: ClickTensors | None,
        working: int,
    ) -> Tensor:
        """What ``net(tiles, clicks)`` gives, from the bottleneck on if what comes before it is kept.

        Args:
            place: The tile.
            how: Which fold and mirror images, and all else that decides the numbers.
            spare: Whether answers while clicking do without it.
            net: The network.
            tiles: (B, 1, z, y, x), mirror images of the tile.
            clicks: Those on them.
            working: The bytes that a tile takes while it is worked on, which must stay free.
        """
        kept = self._features.get((place, how))
        if kept is not None:
            self._features.move_to_end((place, how))
            bottom, *rest = kept.tensors
        else:
            skips = net.encoder(tiles)
            size = sum(skip.nbytes for skip in skips)
            while not self._fits(size, working, tiles.device, size):
                if not self._drop(self._features, everything=False, spare_alone=spare):
                    skips[-1] = net.mamba_layer(skips[-1], clicks)
                    logits: Tensor = net.decoder(skips)
                    return logits
            bottom = skips.pop().clone()
            rest = net.decoder.halfway(skips) if isinstance(net.decoder, FastDecoder) else skips
            kept = self._features[place, how] = _Kept([bottom, *rest], spare, scanned=net.mamba_layer.scanned(bottom))
        bottom = net.mamba_layer(bottom, clicks, kept.scanned)
        if isinstance(net.decoder, FastDecoder):
            return net.decoder.finish(bottom, rest)
        logits = net.decoder([*rest, bottom])
        return logits

    def tile(self, place: Place) -> KeptTile:
        """What is kept of one tile."""
        return KeptTile(self, place)

    def drop(self) -> bool:
        """Let go of what was not used for the longest time; whether there was anything."""
        return self._drop(self._features, everything=True) or self._drop(self._answers, everything=True)

    def turn_to(self, box: Box) -> None:
        """Be about a part of the scan from now on, and let go of everything if that is another part."""
        if box != self.box:
            self.clear()
            self.prepared, self.box = None, box

    def clear(self) -> None:
        """Let go of everything but the prepared scan."""
        self._features.clear()
        self._answers.clear()

    def _drop(self, shelf: OrderedDict[tuple[Place, How], _Kept], everything: bool, spare_alone: bool = False) -> bool:
        """Drop the first of a shelf; what is spare before what is not, what is needed only with ``everything``."""
        candidates = [
            (not kept.spare, number, key)
            for number, (key, kept) in enumerate(shelf.items())
            if (everything or kept.spare or key[0] not in self._needed) and (kept.spare or not spare_alone)
        ]
        if not candidates:
            return False
        del shelf[min(candidates)[-1]]
        return True

    def _fits(self, size: int, working: int, device: torch.device, working_now: int) -> bool:
        """Whether so many bytes can be kept and a tile still be worked on, which takes some of its bytes already."""
        if self.most is not None and self.bytes + size > self.most:
            return False
        if device.type == "cpu":
            room = memory.available() + activations.idle_bytes()
        elif device.type == "cuda":
            room = memory.free_on_gpu(device)
        else:
            return False  # nobody says how much there is
        return size <= room + working_now - working - RESERVED_BYTES


@dataclass(frozen=True)
class KeptTile:
    """What is kept of one tile."""

    keeper: Keeper
    place: Place

    def network(
        self, net: UMamba2, how: How, spare: bool, working: int
    ) -> Callable[[Tensor, ClickTensors | None], Tensor]:
        """A network that starts at its bottleneck where that is enough; the arguments are those of `Keeper.run`."""
        return lambda tiles, clicks: self.keeper.run(self.place, how, spare, net, tiles, clicks, working)


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def make_room(wanted: int) -> None:
    """Let go of what is kept, of any scan, until so many bytes of the host's memory are free or nothing is left."""
    for keeper in list(_keepers):
        while memory.available() < wanted and keeper.drop():
            pass


def _fingerprint(clicks: Clicks | None) -> object:
    return None if clicks is None else (clicks.coordinates.tobytes(), clicks.labels.tobytes())
