"""Where nnU-Net finds the trainers: `nnUNet_extTrainer` names this folder, and nnU-Net imports every file in it."""

from umamba2.training.pretrain import UMamba2Pretrainer
from umamba2.training.semi_trainer import UMamba2SemiSupervisedTrainer
from umamba2.training.trainer import UMamba2Trainer

__all__ = ["UMamba2Pretrainer", "UMamba2SemiSupervisedTrainer", "UMamba2Trainer"]
