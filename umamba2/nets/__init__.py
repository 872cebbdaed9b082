"""The networks: a residual-encoder U-Net with one Mamba-2 layer at its bottom, with or without click prompts."""

from umamba2.nets.prompts import ClickTensors
from umamba2.nets.umamba2 import UMamba2, UMamba2Click, Variant

__all__ = ["ClickTensors", "UMamba2", "UMamba2Click", "Variant"]
