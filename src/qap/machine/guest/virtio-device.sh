#!/bin/busybox sh
# virtio-device ID: wait for a driver to have taken the virtio device with this device ID,
# and print its name under /sys/bus/virtio/devices. If the driver gives the device up over
# ACCESS_PLATFORM, print what the kernel says, and end with status 3.
# virtio-device --over ID: whether there is anything to wait for.
said() {
    dmesg | sed -n "s/^\[[^]]*\] //
        /$1: virtio: device refuses features/p
        /$1: device must provide VIRTIO_F_ACCESS_PLATFORM/p" | tail -n 1
}
device() {
    dirname "$(grep -lx "$(printf '0x%04x' "$1")" /sys/bus/virtio/devices/*/device)"
}
if [ "$1" = --over ]; then
    device=$(device "$2")
    test -e "$device/device" || exit 1
    test -e "$device/driver" || said "$(basename "$device")" | grep -q .
    exit
fi
await "virtio-device --over $1"
device=$(device "$1")
name=$(basename "$device")
# The link to the driver is there before its probe is over. A probe holds the device's lock,
# which a bind waits for; it then finds the device taken.
echo "$name" 2>/dev/null >"$device/driver/bind"
if ! test -e "$device/driver"; then
    said "$name"
    exit 3
fi
echo "$name"
