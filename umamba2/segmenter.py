"""The front door: load a model once, segment any number of scans.

>>> import umamba2
>>> segmenter = umamba2.load("toothfairy3-multiclass")
>>> segmentation = segmenter.segment("scan.mha")
>>> segmentation.write("labels.mha")

The command line, the container, the server and the evalutils class all come through here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.numberings import from_training, ids_of
from umamba2.anatomy.structures import WRITTEN_NUMBERINGS, Structure, named_structures, unknown_structure
from umamba2.challenges import CHALLENGES, Challenge, find_challenge
from umamba2.engine.dental_field import described, field_for
from umamba2.engine.off_canal import answered
from umamba2.engine.postprocess import postprocess, renumbered
from umamba2.engine.progress import Watch
from umamba2.engine.pulp import pulp_per_tooth as split_pulp
from umamba2.engine.record import Record
from umamba2.engine.session import Session
from umamba2.engine.tooth_numbers import need_numbers, with_fixed_numbers
from umamba2.errors import InputError, ModelError, Terminated
from umamba2.messages import unexpected
from umamba2.models.locate import demo_model, find_model, model_folder
from umamba2.scans.clicks import Clicks, no_clicks, read_clicks
from umamba2.scans.given import Scan, volume_of
from umamba2.scans.orientation import UPRIGHT, box_turned_back, tilt, turned, turned_back, turned_points
from umamba2.scans.orientation import code as code_of
from umamba2.scans.volumes import Geometry, Volume, write_labels

if TYPE_CHECKING:
    from umamba2.engine.predict import Predictor

Labels: TypeAlias = "npt.NDArray[np.uint8]"
Predict: TypeAlias = "Callable[..., Labels]"  # takes what `Predictor.predict` takes
PLAIN = "none"  # in place of a challenge: the network's own answer and ids
AUTO, KEEP = "auto", "keep"  # in place of an orientation: what the model states; never turn, never warn
MOST_TILT = 20.0  # degrees between a scan's axes and the patient's; training scans lean less


@dataclass(frozen=True)
class Segmentation:
    """What was found in one scan.

    Attributes:
        labels: The label map, uint8 (z, y, x), on the scan's own grid, in the ids of ``structures``.
        geometry: That grid.
        structures: The name of every id that the model can give; 0 is background and is not among them.
        record: How it was done: seconds, memory, tiles, warnings, notes.
    """

    labels: npt.NDArray[np.uint8]
    geometry: Geometry
    structures: dict[int, str]
    record: Record

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for everything that was not as it should be."""
        return tuple(self.record.warnings)

    def write(self, path: str | Path) -> None:
        """Write the label map, compressed; the name's ending chooses the format. Raises InputError if it cannot be."""
        write_labels(path, self.labels, self.geometry)


class Segmenter:
    """A model with the settings, the post-processing and the ids of a challenge; `load` makes one.

    Args:
        predictor: The loaded model.
        challenge: Whose post-processing and ids to use; None for the network's own answer and ids.
        numbering: The ids of the label maps, one of the challenge's; None for its default.
        postprocess: Whether to apply the challenge's post-processing.
        names: The model's own names of its classes, which count where there is no challenge.
        orientation: How the model's training arrays lay in the patient, such as "LPS": scans are turned to it, labels
            and clicks with them. None: not known, arrays are taken as they are, with a warning where the scan is
            not LPS. "keep": arrays are taken as they are, without a warning.
        reasons: Why some settings are what they are, for the record.
        pulp_per_tooth: Whether the label maps tell the pulps of the teeth apart (see `umamba2.engine.pulp`).
        fix_numbers: Whether the teeth are tidied up before that (see `umamba2.engine.tooth_numbers`).
        all_clicks: Whether clicks that the network does not follow count all the same (see `engine.off_canal`).
        doubts: What is to be said of the model with every scan.

    Attributes:
        labelled: What the label maps are of: the challenge, with the pulp of each tooth if they are told apart; None
            without a challenge.
    """

    def __init__(
        self, predictor: Predictor, challenge: Challenge | None = None, numbering: str | None = None,
        postprocess: bool = True, names: dict[int, str] | None = None, orientation: str | None = KEEP,
        reasons: dict[str, str] | None = None, pulp_per_tooth: bool = False, fix_numbers: bool = False,
        all_clicks: bool = False, doubts: Sequence[str] = (),
    ):  # fmt: skip
        if challenge is None and numbering not in (None, "training"):
            raise InputError(f"numbering: found {numbering!r} without a challenge, expected the name of a challenge")
        if numbering is not None and numbering not in WRITTEN_NUMBERINGS:
            raise InputError(f"numbering: found {numbering!r}, expected one of {', '.join(WRITTEN_NUMBERINGS)}")
        self.predictor, self.challenge, self.postprocess = predictor, challenge, postprocess
        self.numbering = numbering or (challenge.numbering if challenge else "training")
        self.orientation, self.pulp_per_tooth, self.labelled = orientation, pulp_per_tooth, challenge
        if pulp_per_tooth:
            if challenge is None or self.numbering == "training":
                found = "no challenge" if challenge is None else "the training numbering"
                raise InputError(f"pulp per tooth: found {found}, expected a challenge in another numbering")
            self.labelled = challenge.with_tooth_pulps()
        self.fix_numbers, self.all_clicks, self.doubts = fix_numbers, all_clicks, doubts
        if fix_numbers:
            need_numbers(challenge)
        self._names, self.reasons = names or {}, reasons or {}

    @property
    def takes_clicks(self) -> bool:
        """Whether the model is steered by clicks."""
        return self.predictor.takes_clicks

    @property
    def structures(self) -> dict[int, str]:
        """The name of every id that a label map can have, without background."""
        return {number: structure.name for number, structure in self.table.items()}

    @property
    def table(self) -> dict[int, Structure]:
        """What every id that a label map can have means, without background."""
        if self.labelled is None:
            names = {i: self._names.get(i, f"class {i}") for i in range(1, self.predictor.num_classes)}
            return {i: unknown_structure(i, name) for i, name in names.items()}
        return {ids_of(s, self.numbering)[0]: s for s in self.labelled.structures}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result besides the scan, as JSON can hold it."""
        return {
            **self.predictor.settings,
            "challenge": self.challenge and self.challenge.name,
            "numbering": self.numbering,
            "postprocess": self.postprocess,
            "pulp_per_tooth": self.pulp_per_tooth,
            "fix_numbers": self.fix_numbers,
            "orientation": self.orientation,
            "reasons": self.reasons,
        }

    def segment(
        self,
        scan: Scan,
        clicks: str | Path | Clicks | None = None,
        deadline: float | None = None,
        record: Record | None = None,
        watch: Watch | None = None,
    ) -> Segmentation:
        """Segment one scan.

        Args:
            scan: An image file, a volume, or an array (z, y, x) with its spacing (z, y, x) in mm.
            clicks: A click file, or clicks as voxels (z, y, x) of the scan; only for models that take them. What
                cannot be used of a click file costs a warning.
            deadline: On `time.monotonic`'s clock, when the network must be done; post-processing comes after it. Gives
                up mirror images first, then folds, overlap and detail. None: no limit.
            record: Where to note how it went, for callers who want it even if this fails; None for a new one.
            watch: Is told after each pass of the network over a tile how many are done and how many there are. What it
                raises, such as `umamba2.Cancelled`, ends the work and is raised here.

        Raises:
            InputError: The scan cannot be read or segmented; the message names it.
        """
        record = Record() if record is None else record
        with record.timed("read"):
            volume, name = volume_of(scan)
            for warning in volume.warnings:
                record.warn(warning)
            used = self._clicks(clicks, volume, record)

        predict = partial(self.predictor.predict, deadline=deadline)
        labels = self._labels(volume, name, used, record, predict, watch, deadline)
        return Segmentation(labels, volume.geometry, self.structures, record)

    def session(self, scan: Scan, most_bytes: int | None = None) -> Session[Segmentation]:
        """A scan to click on, for models that take clicks: answers at once, and the full result in the end.

        Nothing is computed before the first click or `Session.look`.

        Args:
            scan: As for `segment`.
            most_bytes: How much memory to take at most for what later answers can use, beside the scan itself; None:
                as much as is free. The rest is computed anew.

        Raises:
            InputError: The model takes no clicks, or the scan cannot be read.
        """
        if not self.takes_clicks:
            raise InputError("session: found a model that takes no clicks, expected one that takes them")
        volume, name = volume_of(scan)

        from umamba2.engine.keeping import Keeper

        keeper = Keeper(most_bytes)

        def answer(clicks: Clicks, record: Record, watch: Watch | None, passes: int | None = 1) -> Labels:
            predict = partial(self.predictor.predict, passes=passes, keeper=keeper)
            return self._labels(volume, name, clicks, record, predict, watch)

        def finish(clicks: Clicks, watch: Watch | None) -> Segmentation:
            record = Record(warnings=list(dict.fromkeys(volume.warnings)))
            labels = answer(clicks, record, watch, None)
            return Segmentation(labels, volume.geometry, self.structures, record)

        return Session(volume, self.structures, answer, finish, keeper)

    def _labels(
        self, volume: Volume, name: str, clicks: Clicks | None, record: Record, predict: Predict, watch: Watch | None,
        deadline: float | None = None,
    ) -> Labels:  # fmt: skip
        """The labels of a scan on its own grid: turned, predicted, post-processed and turned back."""
        noted = len(record.warnings)
        for doubt in self.doubts:
            record.warn(doubt)
        try:
            code = self._turn_to(volume, record)
            array, grid = turned(volume.array, volume.grid, code)
            spacing = grid.zyx_spacing

            def ask(clicks: Clicks | None, record: Record, watch: Watch | None) -> Labels:
                found = predict(array, spacing, clicks, record=record, watch=watch)
                return self._finished(found, spacing, clicks, record)

            if clicks is not None:
                places = turned_points(clicks.coordinates, volume.array.shape, volume.grid, code)
                clicks, own = Clicks(places, clicks.labels), clicks.coordinates
            if clicks is None or self.challenge is None or self.all_clicks or not self.postprocess:
                labels = ask(clicks, record, watch)
            else:
                canals = from_training(self.challenge.structures, self.numbering)[1:].tolist()
                labels = answered(ask, clicks, own, canals, spacing, record, watch, deadline)
            if record.dental_field:  # the file's voxels, like all that is told of a scan
                box = tuple(slice(*ends) for ends in record.dental_field["voxels"])
                box = box_turned_back(box, volume.array.shape, volume.grid, code)
                record.dental_field = described(box, volume.grid.zyx_spacing)
            return np.ascontiguousarray(turned_back(labels, volume.grid, code))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        finally:  # the engine does not know the file
            record.warnings[noted:] = [f"{name}: {warning}" for warning in record.warnings[noted:]]

    def _clicks(self, clicks: str | Path | Clicks | None, volume: Volume, record: Record) -> Clicks | None:
        if not self.takes_clicks:
            if clicks is not None:
                raise InputError("clicks: found some, expected none: this model takes no clicks")
            return None
        if not isinstance(clicks, (str, Path)):
            return no_clicks() if clicks is None else clicks
        try:
            usable, remarks = read_clicks(clicks, volume.array.shape)
        except InputError as error:
            record.warn(f"{error}; going on without clicks")
            return no_clicks()
        for remark in remarks:
            record.warn(remark)
        return usable

    def _turn_to(self, volume: Volume, record: Record) -> str:
        """How a scan's array shall lie, with a warning where that is in doubt."""
        own, wanted = code_of(volume.grid), self.orientation
        if wanted == KEEP:
            return own
        if not volume.oriented:
            record.warn(f"orientation: found none stated, taken as {wanted or UPRIGHT}, left and right may be swapped")
            return own
        lean = tilt(volume.grid)
        if lean > MOST_TILT:
            record.warn(f"orientation: found a scan tilted by {lean:.0f} degrees, expected at most {MOST_TILT:.0f}")
        if wanted is not None:
            return wanted
        if own != UPRIGHT:
            expected = f"{UPRIGHT}, as the model does not say how its training scans lay"
            record.warn(f"orientation: found {own}, expected {expected}; taken as it is (--orientation states it)")
        return own

    def _finished(
        self, labels: Labels, spacing: tuple[float, float, float], clicks: Clicks | None, record: Record
    ) -> Labels:
        """Labels of the network's classes (z, y, x), post-processed, in the ids of the numbering."""
        if self.challenge is None or self.labelled is None:
            return labels
        if self.fix_numbers:
            labels = with_fixed_numbers(labels, self.challenge, spacing, record)
        if self.postprocess:
            with record.timed("postprocess"):
                try:
                    labels = postprocess(labels, self.challenge, spacing, clicks)
                except (Exception, Terminated) as error:  # the network's answer as it is beats none
                    record.warn(f"post-processing: found {unexpected(error)}, going on without it")
        if self.pulp_per_tooth:
            with record.timed("pulp per tooth"):
                labels, problem = split_pulp(labels, self.labelled, spacing)
                if problem:
                    record.warn(problem)
        return renumbered(labels, from_training(self.labelled.structures, self.numbering))


def load(
    model: str | Path | None = None,
    *,
    challenge: str | Challenge | None = None,
    device: str = "auto",
    precision: str = "auto",
    folds: int | str | Iterable[int | str] | None = None,
    tile_step: float | None = None,
    mirror: bool | Sequence[int] = True,
    blend: str | None = None,
    postprocess: bool = True,
    numbering: str | None = None,
    orientation: str = AUTO,
    pulp_per_tooth: bool = False,
    fix_numbers: bool | None = None,
    progress: bool = False,
    deterministic: bool = False,
    dental_field: str = AUTO,
    all_clicks: bool = False,
) -> Segmenter:
    """Load a model with the settings of the challenge that it is for.

    Args:
        model: A model folder, one that has a model in a subfolder of the challenge's name, or the name of a model at
            hand (see `umamba2 models`). None takes the demo model of the challenge, with a warning: it has learned
            from made-up scans alone.
        challenge: Whose settings, post-processing and ids to use. None takes the one that the model names, if it does;
            "none" takes none, which gives the network's own answer and ids.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "auto" (fp16 on CUDA, bf16 on CPUs with bf16 instructions, else fp32), "fp16", "bf16" or "fp32".
        folds: Which to average: 0-4 and "all"; None for every one there is.
        tile_step: Distance of the tiles as a fraction of the patch, in (0, 1]; None for the challenge's, else 0.5.
        mirror: Whether to average over mirror images along the challenge's axes, as far as the model was trained for
            them; or those axes (0 z, 1 y, 2 x), whatever the model says.
        blend: How tiles are blended, "nnunet" or "published"; None for the challenge's way, else nnU-Net's.
        postprocess: Whether to apply the challenge's post-processing.
        numbering: The ids of the label maps: "platform", "public" or "training"; None for the challenge's default.
        orientation: How the model's training arrays lay in the patient, such as "LPS"; "auto" takes what the model
            says; "keep" takes every scan's array as it is, as the challenges' platforms do.
        pulp_per_tooth: Whether every voxel of pulp gets the id of the tooth that encloses it: 100 + its FDI number.
        fix_numbers: Whether each tooth becomes one piece, and numbers given twice or out of order are settled by the
            arch; what was changed is in the record's notes. None does it where the model says so, which published ones
            do not, and not without post-processing.
        progress: Whether to show a bar over the tiles on stderr.
        deterministic: Whether a GPU shall give the same labels every time, which costs time; CPUs do so anyway.
        dental_field: Whether of scans larger than the model's dental field this alone is segmented: "on", "off", or
            "auto", which is on where the model states a field.
        all_clicks: Whether clicks that the network does not follow count all the same (see `engine.off_canal`), as they
            do on the challenges' platforms, whose clicks are right.

    Raises:
        ModelError: There is no model, it cannot be read, or it is one for another challenge.
        InputError: A setting is out of range.
    """
    wanted: Challenge | None
    if isinstance(challenge, str):
        wanted = None if challenge == PLAIN else find_challenge(challenge)
    else:
        wanted = challenge
    if model is None:
        model = demo_model(wanted.name if wanted else None)
        problem = f"no model given: taking the demo model {model.name}, which has never seen a patient"
        warnings.warn(problem, stacklevel=2)
    folder = find_model(wanted.name, [model]) if wanted else model_folder(model)

    from umamba2.engine.predict import Predictor  # torch takes seconds to import: not before it is needed
    from umamba2.models.folder import load_model
    from umamba2.models.labels import misplaced

    loaded = load_model(folder, folds)
    doubts = loaded.doubts  # which look at the weights
    if challenge is None and wanted is None and loaded.challenge is not None:
        if loaded.challenge not in tuple(CHALLENGES):  # it may be anything that JSON can hold
            expected = f"{', '.join(CHALLENGES)} (or the challenge {PLAIN!r})"
            raise ModelError(f"{folder}: found a model for {loaded.challenge!r}, expected {expected}")
        wanted = CHALLENGES[loaded.challenge]
    settings = wanted.predictor_settings() if wanted else {}
    if tile_step is not None:
        settings["tile_step"] = tile_step
    if blend is not None:
        settings["blend"] = blend
    if not isinstance(mirror, bool):
        axes = tuple(sorted(loaded.plan.transpose.index(axis) for axis in mirror))
        loaded = replace(loaded, mirror_axes=axes, mirror_reason="as asked for")
        settings["mirror_axes"] = tuple(mirror)
    elif not mirror:
        settings["mirror_axes"] = ()
    structures = wanted.structures if wanted else named_structures(loaded.labels)
    learned = loaded.orientation if orientation in (AUTO, KEEP) else orientation
    if fix_numbers is None:
        fix_numbers = loaded.fix_numbers and postprocess and any(s.fdi for s in structures) and wanted is not None
    settings["dental_field"] = field_for(dental_field, loaded.dental_field, learned, structures)
    predictor = Predictor.load(
        loaded, device=device, precision=precision, progress=progress, deterministic=deterministic, **settings
    )
    if wanted is not None:
        check_model(predictor, wanted, folder)
        if wrong := misplaced(loaded.labels, wanted):
            raise ModelError(f"{folder}: found {wrong} (correct its labels, or take the challenge {PLAIN!r})")
    return Segmenter(
        predictor,
        wanted,
        numbering,
        postprocess,
        names={channel: name for name, channel in loaded.labels.items()},
        orientation=loaded.orientation if orientation == AUTO else orientation,
        reasons={
            "challenge": "as asked for" if challenge is not None else loaded.challenge_reason,
            "mirror_axes": loaded.mirror_reason,
        },
        pulp_per_tooth=pulp_per_tooth,
        fix_numbers=fix_numbers,
        all_clicks=all_clicks,
        doubts=doubts,
    )


def check_model(predictor: Predictor, challenge: Challenge, model: str | Path) -> None:
    """Raise ModelError, naming the model, if it is not one for this challenge."""
    if predictor.challenge not in (None, challenge.name):
        raise ModelError(f"{model}: found a model for {predictor.challenge}, expected one for {challenge.name}")

    def describe(classes: int, clicks: bool) -> str:
        return f"{classes} classes {'with' if clicks else 'without'} clicks"

    found = describe(predictor.num_classes, predictor.takes_clicks)
    expected = describe(challenge.num_classes, challenge.takes_clicks)
    if found != expected:
        raise ModelError(f"{model}: found a model of {found}, expected {expected} for {challenge.name}")
