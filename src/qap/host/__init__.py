"""This computer: processes, files, packages, terminal."""
