"""Packages of the Debian archive, whatever a mirror lacks, and never installed."""
