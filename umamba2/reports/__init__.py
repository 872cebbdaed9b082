"""Pages that people look at: what a segmentation found in one scan, as HTML, PNG and JSON.

>>> from umamba2.reports import read_case, write_report
>>> write_report("report.html", read_case("scan.mha", "labels.mha"))
"""

from __future__ import annotations

from umamba2.lazy import lazily

__all__ = ["Reading", "read_case", "write_preview", "write_report", "write_statistics"]

__getattr__ = lazily(
    __name__,
    {
        "Reading": "reading",
        "read_case": "reading",
        "write_preview": "preview",
        "write_report": "page",
        "write_statistics": "statistics",
    },
)
