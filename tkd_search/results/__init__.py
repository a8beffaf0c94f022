"""What a search found, as frozen values and as stable files (``record.json``, ``summary.json``)."""
