"""Pages that people look at: what a segmentation found in one scan, as HTML, PNG and JSON.

>>> from umamba2.reports import read_case, write_report
>>> write_report("report.html", read_case("scan.mha", "labels.mha"))
"""

from __future__ import annotations

__all__ = ["Reading", "read_case", "write_preview", "write_report", "write_statistics"]

_HOMES = {
    "Reading": "umamba2.reports.reading",
    "read_case": "umamba2.reports.reading",
    "write_preview": "umamba2.reports.preview",
    "write_report": "umamba2.reports.page",
    "write_statistics": "umamba2.reports.statistics",
}


def __getattr__(name: str):
    # The command line asks this package for its options, and must not wait for scipy and Pillow to get them.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'umamba2.reports' has no attribute {name!r}")
