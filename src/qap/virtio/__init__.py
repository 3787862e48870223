"""Drivers for virtio devices in Python, with the terms of the virtio specification 1.3."""
