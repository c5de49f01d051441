"""What leaves a finished run: files for trainers."""

from prefdata.export.files import Export, ExportOptions, export_run
from prefdata.export.formats import FORMATS

__all__ = ["FORMATS", "Export", "ExportOptions", "export_run"]
