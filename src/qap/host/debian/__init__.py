"""Packages of the Debian archive, from mirrors that may lack some; nothing is installed."""
