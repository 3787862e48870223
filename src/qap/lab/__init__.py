"""The kernel lab: a guest with the kernel's vhost, vDPA and VFIO devices, and QEMUs in it."""
