"""qap: builds a QEMU patch queue and proves what it changes on real guests and devices."""

__version__ = "0.1.0"
