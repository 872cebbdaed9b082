"""Test settings: one thread per process, because the networks here are small and test processes run side by side."""

import torch

torch.set_num_threads(1)
