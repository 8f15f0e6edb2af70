"""The report: every table and figure, as files and as one page."""
