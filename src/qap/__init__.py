"""qap: builds a QEMU patch queue and proves what it changes on real guests and devices."""

from importlib.metadata import version

__version__ = version("qap")
