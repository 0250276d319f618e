"""The report of a run: one HTML page, figures and tables, made from its run folder alone.

No model is loaded and nothing is measured here, so a report can be made again anywhere from the
records: see :func:`write_report`.
"""

from stillshot.report.html import write_report
from stillshot.report.tables import markdown_table

__all__ = ["markdown_table", "write_report"]
