from tests.export.conftest import shipped, trained  # noqa: F401
from tests.tracking.conftest import database, empty_database, folder, record, still  # noqa: F401
