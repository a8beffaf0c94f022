from tests.export.conftest import digits  # noqa: F401
