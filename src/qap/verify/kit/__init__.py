"""Common code of the tests in every suite."""
