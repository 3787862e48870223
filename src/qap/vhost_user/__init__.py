"""vhost-user from Python: the protocol, a back-end, and a relay between byte orders.

The specification is docs/interop/vhost-user.rst of QEMU; names here are its names.
"""
