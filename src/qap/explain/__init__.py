"""A QEMU command line as people have it, and what becomes of its virtio devices; runs nothing."""
