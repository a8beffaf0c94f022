"""Results of a search as frozen records and as files (``record.json``, ``summary.json``)."""
