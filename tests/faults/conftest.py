from tests.export.conftest import digits, shipped, trained  # noqa: F401
