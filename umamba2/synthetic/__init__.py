"""Scans that nobody took: phantoms with exact labels, and random images of real label maps."""
