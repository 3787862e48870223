#!/bin/bash
# A guest with a shared folder, hotplug later.
set -eu
SOCK="/tmp/vm/fs.sock"
QEMU=${QEMU:-qemu-system-x86_64}
MEM=4G
DISK='/srv/images/it is mine.qcow2'
virtiofsd --socket-path=$SOCK --shared-dir=/srv/share &
qemu-system-x86_64 -M pc -cpu host --enable-kvm -smp 2 -m $MEM \
    -object memory-backend-file,id=mem,size=$MEM,mem-path=/dev/shm,share=on -numa node,memdev=mem \
    -chardev socket,id=char0,path="$SOCK" \
    -device vhost-user-fs-pci,queue-size=1024,chardev=char0,tag=myfs,iommu_platform=on \
    -drive if=virtio,file="$DISK" \
    -nic user,model=virtio-net-pci,hostfwd=tcp::2222-:22 \
    -display none -serial mon:stdio # that's all
