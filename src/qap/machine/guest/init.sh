#!/bin/busybox sh
# /init of the test guests. Mounts what a script expects, loads the modules, then
# answers commands on the console: a line in is the base64 of a script, and
# lines out are "qap-out BASE64", ended by "qap-end STATUS".
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmp /tmp
console=$(sed -n 's/.*qap.console=\([^ ]*\).*/\1/p' /proc/cmdline)
exec </dev/"$console" >/dev/"$console" 2>&1
# One thing at a time on the line: no echo, no kernel log short of a panic.
stty raw -echo icrnl icanon
dmesg -n 1
while read -r module; do
    insmod "/modules/$module" || echo "qap-warning: $module did not load"
done </modules/order
# qap.9p=TAG:PATH,…: mount these shares. Only “shared” changes while the guest runs.
for share in $(sed -n 's/.*qap.9p=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
    tag=${share%%:*}
    path=${share#*:}
    cache=loose
    test "$tag" != shared || cache=none
    mkdir -p "$path"
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,cache=$cache" "$tag" "$path" ||
        echo "qap-warning: $path is not shared"
done
if test -d /usr/lib; then
    ln -s usr/lib usr/lib64 /
fi
if grep -q qap.shell /proc/cmdline; then
    stty sane
    echo "modules are loaded; /bin/virtio-device ID finds a device; poweroff -f ends"
    exec setsid cttyhack sh
fi
echo "qap-ready $(uname -r)"
while read -r line; do
    printf '%s' "$line" | base64 -d >/tmp/command
    sh /tmp/command >/tmp/output 2>&1 </dev/null
    status=$?
    base64 -w 1000 /tmp/output | sed 's/^/qap-out /'
    echo "qap-end $status"
done
echo "qap-lost the console was closed"
poweroff -f
