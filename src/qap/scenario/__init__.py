"""Scenarios of a guest and a device: qap run, qap repro and qap shell."""
