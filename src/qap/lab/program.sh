# program.sh NAME LOG COMMAND…: run a command in L1, and tell how it ends.
# Its process ID goes into the fifo /run/NAME, "NAME STATUS" into the fifo /run/ended.
name=$1 log=$2
shift 2
# A device of the kernel's pins a QEMU's memory.
ulimit -l unlimited
"$@" >"$log" 2>&1 </dev/null &
echo $! >"/run/$name"
wait $!
echo "$name $?" >/run/ended
