"""Inference: prepare a scan, cut it into tiles, run the network, blend, return labels."""
