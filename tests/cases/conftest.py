from tests.tracking.conftest import database, empty_database, folder, record, still  # noqa: F401
