#!/bin/busybox sh
# virtio-device ID: wait for a driver to have taken the virtio device with this device ID,
# and print its name under /sys/bus/virtio/devices.
wanted=$(printf '0x%04x' "$1")
await "grep -lx $wanted /sys/bus/virtio/devices/*/device | grep -q . &&
    test -e \$(dirname \$(grep -lx $wanted /sys/bus/virtio/devices/*/device))/driver"
device=$(dirname "$(grep -lx "$wanted" /sys/bus/virtio/devices/*/device)")
name=$(basename "$device")
# The link to the driver is there before its probe is over. A probe holds the device's lock,
# which a bind waits for; it then finds the device taken.
echo "$name" 2>/dev/null >"$device/driver/bind"
echo "$name"
