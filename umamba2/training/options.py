"""What one training run changes of its preset."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from umamba2.challenges import CHALLENGES, Challenge
from umamba2.challenges.recipe import Recipe, SemiSupervision, Stage
from umamba2.errors import InputError

# For datasets that state no challenge: nnU-Net's own settings.
NNUNET_DEFAULTS = Recipe(network="", patch=(0, 0, 0), train=Stage(1000, 0.01), accumulate=1, validation_iterations=50)


@dataclass(frozen=True)
class Options:
    """One run's settings beside the preset; None keeps the preset's.

    Attributes:
        preset: Its name; None: the challenge that the dataset states.
        epochs: Of the first stage.
        learning_rate: Where the first stage starts.
        finetune_epochs: Of the second stage; 0: as many as the preset has; None: there is no second stage.
        iterations: Optimizer steps of an epoch.
        validation_iterations: Batches of an epoch's validation.
        average_unlabelled: Divide the gradients of unlabelled micro-batches like those of labelled ones, as the paper
            reads; the released code does not.
        save_every: Epochs from checkpoint to checkpoint.
        accumulate: Micro-batches of a step.
        mirror_axes: Of the patch, at random in training.
        seed: Decides every random number of an epoch, together with the epoch's number and the process.
        fp32: Train without reduced precision.
        dry_run: Two steps and a validation step of every stage, of which nothing is kept.
        pretrained: The path of a model or checkpoint to start from.
    """

    preset: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    finetune_epochs: int | None = None
    iterations: int | None = None
    validation_iterations: int | None = None
    average_unlabelled: bool = False
    save_every: int = 10
    accumulate: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    seed: int = 0
    fp32: bool = False
    dry_run: bool = False
    pretrained: str | None = None

    @classmethod
    def from_json(cls, text: str, where: str) -> Options:
        """Options from a JSON object, which messages call ``where``. Raises InputError if it holds anything else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            names = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"{where}: found {text!r} ({error}), expected a JSON object of {names}") from None

    def to_json(self) -> str:
        """The options that are not None as a JSON object."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    def applied_to(self, preset: Recipe) -> Recipe:
        """The preset with this run's changes; its ``finetune`` is None unless asked for or in a dry run."""
        finetune = preset.finetune if self.dry_run else None
        if self.finetune_epochs is not None:
            if preset.finetune is None:
                raise InputError("fine-tuning: found a preset that has no such stage, expected none asked for")
            finetune = replace(preset.finetune, epochs=self.finetune_epochs or preset.finetune.epochs)
        return replace(
            preset,
            train=replace(
                preset.train,
                epochs=self.epochs or preset.train.epochs,
                learning_rate=self.learning_rate or preset.train.learning_rate,
            ),
            finetune=finetune,
            iterations=self.iterations or preset.iterations,
            validation_iterations=self.validation_iterations or preset.validation_iterations,
            unlabelled=self._averaged(preset.unlabelled),
            unlabelled_finetune=self._averaged(preset.unlabelled_finetune),
            accumulate=self.accumulate or preset.accumulate,
            mirror_axes=preset.mirror_axes if self.mirror_axes is None else tuple(self.mirror_axes),
            pretrain=replace(preset.pretrain, epochs=self.epochs or preset.pretrain.epochs),
        )

    def _averaged(self, settings: SemiSupervision | None) -> SemiSupervision | None:
        return replace(settings, averaged=True) if settings and self.average_unlabelled else settings


def challenge_for(dataset: object, stated: str | None, preset: str | None = None) -> Challenge:
    """The challenge whose recipe is a dataset's.

    Args:
        dataset: What messages call it.
        stated: The challenge that the dataset states, if it does.
        preset: The challenge that was asked for, if one was.

    Raises:
        InputError: Neither names one, they name different ones, or there is none of that name.
    """
    if preset and stated and preset != stated:
        raise InputError(f"{dataset}: found a dataset for {stated}, expected one for {preset}")
    wanted = preset or stated
    if wanted not in CHALLENGES:
        raise InputError(f"{dataset}: found the challenge {wanted}, expected --preset {' or '.join(CHALLENGES)}")
    return CHALLENGES[str(wanted)]
