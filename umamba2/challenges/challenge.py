"""What one challenge asks for, as data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from umamba2.anatomy.structures import ANATOMY, TOOTH_PULPS, Structure, by_name, left_right_pairs
from umamba2.challenges.recipe import Recipe
from umamba2.errors import InputError

Connectivity = Literal[6, 18, 26]
_PULP = "pulp"  # of all teeth
Grading = Literal["classes", "click runs", "instances"]


@dataclass(frozen=True)
class Challenge:
    """A challenge: what it asks for, what its platform mounts and collects, and the method's published settings.

    Attributes:
        name: What it is called on the command line and in the description of a dataset or a model.
        title: What readers call it.
        structures: Its classes, in the order of their training ids.
        grading: How it is graded: "classes" (mean Dice and HD95 of every class), "click runs" (the same, integrated
            over six runs with 0 to 5 clicks) or "instances" (foreground and instances pooled over the cases).
        recipe: How its networks are planned and trained.
        dataset_name: What nnU-Net calls its dataset, ``Dataset<number>_<name>``.
        output_name: The name of an output, made from {name}, the image's file name, {case}, the same without its
            image suffix, and {suffix}.
        mounts: The input and the output folder in the container.
        image_folder: Where the images lie below the input folder; "" is that folder itself.
        output_folder: Where the label maps go below the output folder.
        suffix: The default for {suffix}.
        has_results: Whether it runs on Grand Challenge, which wants a results.json and a metadata folder.
        takes_clicks: Whether a scan comes with clicks.
        numbering: The default numbering of the label maps.
        released: The structures in the organisers' published labels, if more than the challenge's classes.
        tile_step: Distance of tiles as a fraction of the patch.
        mirror_axes: Axes (0 z, 1 y, 2 x) of the mirror images to average over.
        swaps_sides: Whether an x mirror image swaps left and right structures.
        blend: How tiles are blended, see `umamba2.engine.blend`.
        connectivity: 6, 18 or 26 neighbours for the removal of small components; None keeps them all.
    """

    name: str
    title: str
    structures: tuple[Structure, ...]
    grading: Grading
    recipe: Recipe
    dataset_name: str
    output_name: str
    mounts: tuple[str, str]
    image_folder: str = ""
    output_folder: str = ""
    suffix: str = ""
    has_results: bool = False
    takes_clicks: bool = False
    numbering: str = "platform"
    released: tuple[Structure, ...] = ()
    tile_step: float = 0.5
    mirror_axes: tuple[int, ...] = (1, 2)
    swaps_sides: bool = True
    blend: str = "published"
    connectivity: Connectivity | None = None

    def __post_init__(self) -> None:
        if [s.training for s in self.structures] != list(range(1, self.num_classes)):
            raise ValueError(f"{self.name}: expected structures in the order of their training ids, 1, 2, 3, ...")

    @property
    def num_classes(self) -> int:
        """Channels of a network for this challenge, background included."""
        return len(self.structures) + 1

    @property
    def min_voxels(self) -> dict[int, float]:
        """Training id -> smallest component that stays, in voxels of 0.3 mm."""
        return {s.training: s.min_voxels for s in self.structures if s.min_voxels is not None}

    @property
    def has_tooth_pulps(self) -> bool:
        """Whether the pulp of every tooth is a structure of its own."""
        return TOOTH_PULPS[0].name in by_name(self.structures)

    def with_tooth_pulps(self) -> Challenge:
        """What the label maps hold once each pulp has the number of its tooth: a structure more for every tooth.

        The plain pulp stays, for what lies in no tooth.

        Raises:
            InputError: The challenge does not have each tooth and its pulp.
        """
        if self.has_tooth_pulps:
            return self
        if not self._has_numbered_teeth:
            expected = "one with pulp and each tooth by its number"
            raise InputError(f"pulp per tooth: found the challenge {self.name}, expected {expected}")
        plain = tuple(replace(s, dataset=()) if s.name == _PULP else s for s in self.structures)
        pulps = (replace(pulp, training=i) for i, pulp in enumerate(TOOTH_PULPS, start=self.num_classes))
        return replace(self, structures=(*plain, *pulps))

    def as_found(self, numbering: str, *present: Collection[int]) -> Challenge:
        """The challenge as its label maps are: with tooth pulps if some tell them apart, and none has plain pulp alone.

        Args:
            numbering: Their ids.
            present: The ids in each label map.
        """
        if numbering == "training" or not self._has_numbered_teeth:
            return self
        pulps, plain = {s.public for s in TOOTH_PULPS}, getattr(by_name(self.structures)[_PULP], numbering)
        apart = [not pulps.isdisjoint(ids) for ids in present]
        if not any(apart) or any(plain in ids and not own for own, ids in zip(apart, present)):
            return self
        return self.with_tooth_pulps()

    @property
    def _has_numbered_teeth(self) -> bool:
        needed = {s.name for s in ANATOMY if s.fdi or s.name == _PULP}
        return needed <= set(by_name(self.structures))

    def predictor_settings(self) -> dict[str, Any]:
        """Arguments of ``Predictor.load`` that the challenge decides."""
        return {
            "tile_step": self.tile_step,
            "mirror_axes": self.mirror_axes,
            "left_right_pairs": left_right_pairs(self.structures) if self.swaps_sides else (),
            "blend": self.blend,
        }
