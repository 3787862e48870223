"""Guests that boot: Debian kernels, a busybox initramfs, and a dialogue on the console."""
