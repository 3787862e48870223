"""The queue for others: in the formats of those who package QEMU or send patches to it."""
