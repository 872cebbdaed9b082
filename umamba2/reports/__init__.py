"""Pages that people look at: what a segmentation found in one scan, as HTML, PNG and JSON.

>>> from umamba2.reports import read_case, write_report
>>> write_report("report.html", read_case("scan.mha", "labels.mha"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.reports.page import write_report
    from umamba2.reports.preview import write_preview
    from umamba2.reports.reading import ReportCase, read_case
    from umamba2.reports.statistics import write_statistics

__all__ = ["ReportCase", "read_case", "write_preview", "write_report", "write_statistics"]

if not TYPE_CHECKING:
    __getattr__ = lazily(
        __name__,
        {
            "ReportCase": "reading",
            "read_case": "reading",
            "write_preview": "preview",
            "write_report": "page",
            "write_statistics": "statistics",
        },
    )
