#!/bin/busybox sh
# await CONDITION: return once the shell condition holds. It is looked at again at
# each kernel uevent, and each second in case one came before we listened.
fifo=/tmp/await.$$
mkfifo "$fifo"
exec 3<>"$fifo"
uevent sh -c "echo >$fifo" &
listener=$!
until eval "$1" >/dev/null 2>&1; do
    read -r -t 1 _ <&3
done
kill "$listener"
rm "$fifo"
