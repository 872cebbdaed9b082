"""Training with stock nnU-Net: dataset conversion, planning, preprocessing, trainers and pretraining."""

from pathlib import Path

PLUGIN = Path(__file__).parent / "nnunet_plugin"  # what `nnUNet_extTrainer` has to name
