"""Which cases and patches a training sees: nnU-Net's loaders, checked and seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from umamba2.challenges.recipe import Recipe
from umamba2.errors import InputError, naming
from umamba2.messages import end_with_parent
from umamba2.training import augment
from umamba2.training.dataset import Split, read_splits
from umamba2.training.nnunet import UNLABELLED_SUFFIX
from umamba2.training.options import Options
from umamba2.training.preprocess import record_of, results_of
from umamba2.training.properties import check_places, read_properties
from umamba2.training.provenance import has_other_sizes

nnunet_dataset.load_pickle = read_properties  # nnU-Net would run whatever code is in the file

Batch = dict[str, Any]


class Cases:
    """A dataset of nnU-Net for its loaders; cases without labels know no place of any class.

    A class of a module, because where the system starts the loaders' processes afresh it travels to them as a pickle.

    Args:
        dataset: nnU-Net's.
        highest: The highest label that there may be.
        labelled: Whether its cases must say where their classes are.
    """

    def __init__(self, dataset: Any, highest: int, labelled: bool):
        self.dataset, self.identifiers = dataset, dataset.identifiers
        self.highest, self.labelled = highest, labelled

    def load_case(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Image, labels, nothing, and properties of a case. Raises InputError, which names it, if it is damaged."""
        with self._naming(case):
            image, labels, previous, properties = self.dataset.load_case(case)
            if image.ndim != 4 or labels.shape != (1, *image.shape[1:]):
                raise ValueError(f"an image of shape {image.shape} and labels of {labels.shape}")
            if self.labelled or "class_locations" in properties:
                check_places(properties, labels.shape)

        def image_at(place: Any) -> Any:
            with self._naming(case):
                found = image[place]
                if not np.isfinite(found).all():
                    raise ValueError("values that are not finite")
                return found

        def labels_at(place: Any) -> Any:
            with self._naming(case):
                found = labels[place]
                if found.size and not -1 <= (wrong := max(found.min(), found.max(), key=abs)) <= self.highest:
                    raise ValueError(f"label {wrong:g}, of -1 to {self.highest}")
                return found

        return _Stored(image, image_at), _Stored(labels, labels_at), previous, {"class_locations": {}, **properties}

    @contextmanager
    def _naming(self, case: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            found = f"found {case} damaged ({' '.join(str(error).split())[:100]})"
            again = "expected it whole: remove its files and run `umamba2 preprocess`"
            raise InputError(f"{self.dataset.source_folder}: {found}, {again}") from None


class _Stored:
    """An array in a file, of which only what is asked for is read, by a function."""

    def __init__(self, array: Any, read: Callable[[Any], Any]):
        self.shape, self.ndim, self.dtype, self._read = array.shape, array.ndim, array.dtype, read

    def __getitem__(self, place: Any) -> Any:
        return self._read(place)


class Loader(nnUNetDataLoader):
    """nnU-Net's, whose processes do not go on for ever when a training is killed."""

    def set_thread_id(self, thread_id: int) -> None:
        """Called in each process when it starts."""
        super().set_thread_id(thread_id)
        end_with_parent()


class DataLoading(nnUNetTrainer):
    """The part of the trainers that decides which patches they see."""

    preset: Recipe
    options: Options
    pairs: tuple[tuple[int, int], ...]
    left_right_axis: int
    dataset_class: Any
    dataloader_train: Any
    inference_allowed_mirroring_axes: tuple[int, ...] | None

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, tuple[int, ...]]:
        """nnU-Net's settings of the spatial augmentation, with the preset's mirror axes."""
        rotation, dummy_2d, initial_patch, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        # Recorded in checkpoints. Mirroring along the left/right axis is only right with the labels swapped:
        # `umamba2 predict` does that, nnU-Net's own prediction does not.
        self.inference_allowed_mirroring_axes = self.preset.mirror_axes
        return rotation, dummy_2d, initial_patch, self.preset.mirror_axes

    def do_split(self) -> tuple[list[str], list[str]]:
        """The names of the training and the validation cases."""
        folds = self._folds()
        if self.fold != "all" and self.fold >= len(folds):  # nnU-Net would make one up
            raise InputError(f"fold {self.fold}: found {len(folds)} folds in {self._splits_file}, expected one of them")
        training, validation = super().do_split()
        if self.fold == "all" and len(training) < self.dataset_json["numTraining"]:  # else the splits name them
            raise InputError(
                f"{self.preprocessed_dataset_folder}: found {len(training)} cases, "
                f"expected {self.dataset_json['numTraining']} (`umamba2 preprocess`)"
            )
        self._check_cases(Path(self.preprocessed_dataset_folder), [*training, *validation])
        if not training or not validation:
            found = f"{len(training)} training and {len(validation)} validation cases"
            raise InputError(f"fold {self.fold}: found {found}, expected some of each")
        return training, validation

    @property
    def _splits_file(self) -> Path:
        return Path(self.preprocessed_dataset_folder_base, "splits_final.json")

    def _folds(self) -> list[Split]:
        """The folds of the splits file, or the five that nnU-Net makes where there is none."""
        return read_splits(self._splits_file) if self._splits_file.is_file() else [{}] * 5

    def _check_cases(self, folder: Path, cases: Sequence[str]) -> None:
        """Raise InputError for preprocessed cases that are missing, cut off, or of other sizes than they were made."""
        there = self.dataset_class.get_identifiers(str(folder)) if folder.is_dir() else ()
        missing = sorted(set(cases) - set(there))
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InputError(f"{folder}: found no {some}, expected all cases of the splits (`umamba2 preprocess`)")
        for case in cases:
            file = folder / f"{case}.pkl"
            with naming(file), open(file, "rb") as content:
                content.seek(max(0, file.stat().st_size - 1))
                if content.read() != b".":  # with which every pickle ends
                    raise InputError(f"{file}: found it cut off, expected it whole: remove it and preprocess again")
            if has_other_sizes(record_of(folder, case), results_of(folder, case)):
                found = f"found files of {case} of other sizes than they were made with"
                raise InputError(f"{folder}: {found}, expected them as they were: run `umamba2 preprocess` again")

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches for training and for validation, without end."""
        transforms, initial_patch = self._training_transforms()
        training, validation = self.get_tr_and_val_datasets()
        unchanged = self.get_validation_transforms(self._get_deep_supervision_scales())
        return (
            self._batches(training, initial_patch, transforms, 0),
            self._batches(validation, self.configuration_manager.patch_size, unchanged, 1),
        )

    def _training_transforms(self) -> tuple[Any, Sequence[int]]:
        """nnU-Net's training transforms with sided mirroring, and the patch size that they start from."""
        rotation, dummy_2d, initial_patch, axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch, scales = self.configuration_manager.patch_size, self._get_deep_supervision_scales()
        transforms = self.get_training_transforms(
            patch, rotation, scales, axes, dummy_2d, use_mask_for_norm=self.configuration_manager.use_mask_for_norm
        )
        return augment.swap_sides(transforms, self.left_right_axis, self.pairs), initial_patch

    def _batches(self, dataset: Any, size: Sequence[int], transforms: Any, stream: int) -> Iterator[Batch]:
        """Batches of a dataset as nnU-Net makes them; ``stream`` is 0 for the training, which gets more processes."""
        unlabelled = str(dataset.source_folder).endswith(UNLABELLED_SUFFIX)
        labelled = self.oversample_foreground_percent > 0 and not unlabelled
        loader = Loader(
            Cases(dataset, self._highest_label, labelled),
            self.batch_size,
            size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )
        processes = get_allowed_n_proc_DA()
        if processes == 0:
            batches: Iterator[Batch] = SingleThreadedAugmenter(loader, None)
            return batches
        if stream:
            processes = max(1, processes // 2)
        # Without seeds, all processes would inherit and repeat the same random numbers of torch.
        batches = NonDetMultiThreadedAugmenter(
            loader,
            None,
            processes,
            num_cached=max(3, processes // 2),
            seeds=[self._seed(stream, process) for process in range(processes)],
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )
        next(batches)  # start the processes
        return batches

    @property
    def _highest_label(self) -> int:
        manager = self.label_manager
        return int(max(*manager.all_labels, manager.ignore_label if manager.has_ignore_label else 0))

    def _seed(self, *which: int) -> int:
        """A seed that depends on the run's, the epoch and this process, and on ``which`` use it is for."""
        entropy = [self.options.seed, self.current_epoch, self.local_rank, *which]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])
