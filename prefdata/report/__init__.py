"""`prefdata report`: a run as one HTML file for people."""

from prefdata.report.page import Report, make_report

__all__ = ["Report", "make_report"]
