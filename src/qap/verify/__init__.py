"""Runs the test suites and proves the patches."""
