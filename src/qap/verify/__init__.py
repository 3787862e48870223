"""Runs the test suites, and checks that the patches' tests fail without them."""
