"""One guest, one device, one story: run, repro and shell."""
