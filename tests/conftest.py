"""Test settings: one thread per process, because the networks here are small and test processes run side by side."""

import signal

import torch

torch.set_num_threads(1)
# Where tests run in the background of a script, it is ignored, and everything they start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
