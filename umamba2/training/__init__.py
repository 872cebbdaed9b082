"""Training with stock nnU-Net: dataset conversion, planning, preprocessing, trainers and pretraining."""
