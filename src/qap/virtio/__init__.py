"""Virtio devices driven from Python, by the virtio specification 1.3 and in its words."""
