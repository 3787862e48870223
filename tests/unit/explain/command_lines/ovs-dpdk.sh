#!/bin/sh
exec sudo taskset -c 4-7 /usr/local/bin/qemu-system-x86_64 \
  -name dpdk -machine q35,accel=kvm,kernel-irqchip=split -cpu host -m 4096 -smp 4 \
  -object memory-backend-file,id=mem,size=4096M,mem-path=/dev/hugepages,share=on -numa node,memdev=mem \
  -device intel-iommu,intremap=on,device-iotlb=on,caching-mode=on \
  -device ioh3420,id=root.1,chassis=1 -device ioh3420,id=root.2,chassis=2 \
  -chardev socket,id=char1,path=/var/run/openvswitch/vhost1,server=on,wait=off \
  -netdev type=vhost-user,id=net1,chardev=char1,vhostforce=on,queues=2 \
  -device virtio-net-pci,bus=root.1,mac=52:54:00:00:01:01,netdev=net1,disable-legacy=on,disable-modern=off,iommu_platform=on,ats=on,mq=on,vectors=6 \
  -netdev tap,id=mgmt,vhost=on,script=no,downscript=no \
  -device virtio-net-pci,bus=root.2,netdev=mgmt,iommu_platform=on,disable-legacy=on,ats=on \
  -drive file=guest.img,format=raw,if=none,id=d0 -device virtio-blk-pci,drive=d0,iommu_platform=on,disable-legacy=on \
  -nographic
