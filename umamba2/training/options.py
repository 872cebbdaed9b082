"""What one training run changes of its preset. nnU-Net starts the trainers, so it travels in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace

from umamba2.challenges import CHALLENGES, Challenge
from umamba2.challenges.recipe import Recipe
from umamba2.errors import InputError

VARIABLE = "UMAMBA2_TRAINING"


@dataclass(frozen=True)
class Options:
    """One run's settings beside the preset; None keeps the preset's.

    ``preset`` names it (None: the challenge that the dataset states). ``learning_rate`` is where the first stage
    starts; ``finetune_epochs`` follow its ``epochs`` (None: none). ``seed`` decides every random number of an epoch,
    together with the epoch's number and the process. ``fp32`` trains without reduced precision. ``pretrained`` is a
    path.
    """

    preset: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    finetune_epochs: int | None = None
    iterations: int | None = None
    validation_iterations: int = 50
    save_every: int = 10
    accumulate: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    seed: int = 0
    fp32: bool = False
    pretrained: str | None = None

    @classmethod
    def from_environment(cls) -> Options:
        """The options that the environment holds; InputError if they are none."""
        text = os.environ.get(VARIABLE, "{}")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            names = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"{VARIABLE}: found {text!r} ({error}), expected a JSON object of {names}") from None

    def to_environment(self) -> None:
        """Leave the options to the trainers of this process and of those it starts."""
        os.environ[VARIABLE] = json.dumps({k: v for k, v in asdict(self).items() if v is not None})

    def applied_to(self, preset: Recipe) -> Recipe:
        """The preset with this run's changes; its ``finetune`` is None unless asked for."""
        finetune = None
        if self.finetune_epochs:
            if preset.finetune is None:
                raise InputError("fine-tuning: found a preset that has no such stage, expected 0 epochs of it")
            finetune = replace(preset.finetune, epochs=self.finetune_epochs)
        return replace(
            preset,
            train=replace(
                preset.train,
                epochs=self.epochs or preset.train.epochs,
                learning_rate=self.learning_rate or preset.train.learning_rate,
            ),
            finetune=finetune,
            iterations=self.iterations or preset.iterations,
            accumulate=self.accumulate or preset.accumulate,
            mirror_axes=preset.mirror_axes if self.mirror_axes is None else tuple(self.mirror_axes),
            pretrain=replace(preset.pretrain, epochs=self.epochs or preset.pretrain.epochs),
        )


def challenge_for(challenge: object, options: Options) -> Challenge | None:
    """The challenge of a dataset that states ``challenge``; None if neither names one.

    Raises InputError if they name different ones, or one that does not exist.
    """
    if options.preset and challenge and options.preset != challenge:
        raise InputError(f"preset: found {options.preset} for a dataset of {challenge}, expected the same")
    name = options.preset or challenge
    if name is None:
        return None
    if name not in CHALLENGES:
        raise InputError(f"preset: found {name!r}, expected {', '.join(CHALLENGES)}")
    return CHALLENGES[str(name)]
