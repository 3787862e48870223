"""One QEMU: command line, sockets and memory, and the guest in it."""
