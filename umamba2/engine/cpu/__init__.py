"""The same networks, faster on CPUs: `optimize_for_cpu` rebuilds one, `activations` keeps memory from tile to tile."""

from umamba2.engine.cpu import activations
from umamba2.engine.cpu.layers import FastDecoder, optimize_for_cpu

__all__ = ["FastDecoder", "activations", "optimize_for_cpu"]
