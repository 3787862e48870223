"""Buses and CPUs as a driver sees them."""
