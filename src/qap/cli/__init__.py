"""The verbs of ./qap: parse, call, print, exit code."""
