"""Pairs as files that trainers read."""

from prefdata.export.files import Export, ExportOptions, export_run
from prefdata.export.formats import FORMATS, Lines

__all__ = ["FORMATS", "Export", "ExportOptions", "Lines", "export_run"]
