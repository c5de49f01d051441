"""What leaves a finished run: files for trainers, a page for people."""

from prefdata.export.files import Export, ExportOptions, export_run
from prefdata.export.formats import FORMATS
from prefdata.report.page import Report, make_report, write_report

__all__ = [
    "FORMATS",
    "Export",
    "ExportOptions",
    "Report",
    "export_run",
    "make_report",
    "write_report",
]
