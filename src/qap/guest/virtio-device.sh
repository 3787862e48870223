#!/bin/busybox sh
# virtio-device ID: wait for the virtio device with this device ID to have a driver,
# and print its name under /sys/bus/virtio/devices.
wanted=$(printf '0x%04x' "$1")
await "grep -lx $wanted /sys/bus/virtio/devices/*/device | grep -q . &&
    test -e \$(dirname \$(grep -lx $wanted /sys/bus/virtio/devices/*/device))/driver"
basename "$(dirname "$(grep -lx "$wanted" /sys/bus/virtio/devices/*/device)")"
