#!/bin/busybox sh
# await [--for SECONDS] CONDITION: return once the shell condition holds, or with status 1 after
# so many seconds. It is looked at again at each kernel uevent, and each second in case one came
# before we listened.
uptime() { cut -d. -f1 /proc/uptime; }
until=
if [ "$1" = --for ]; then
    until=$(($(uptime) + $2))
    shift 2
fi
fifo=/tmp/await.$$
mkfifo "$fifo"
exec 3<>"$fifo"
uevent sh -c "echo >$fifo" &
listener=$!
status=0
until eval "$1" >/dev/null 2>&1; do
    if [ -n "$until" ] && [ "$(uptime)" -ge "$until" ]; then
        status=1
        break
    fi
    read -r -t 1 _ <&3
done
kill "$listener"
rm "$fifo"
exit $status
