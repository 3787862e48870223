# Smallest machine
qemu-system-x86_64 -M microvm,x-option-roms=off,isa-serial=off,rtc=off \
   -no-acpi -enable-kvm -cpu host -nodefaults -no-user-config -nographic -no-reboot \
   -m 512m -smp 2 -kernel vmlinux -append "console=hvc0 root=/dev/vda" \
   -global virtio-mmio.force-legacy=false \
   -device virtio-serial-device -chardev stdio,id=virtiocon0 -device virtconsole,chardev=virtiocon0 \
   -drive id=root,file=root.img,format=raw,if=none -device virtio-blk-device,drive=root,iommu_platform=on \
   -netdev tap,id=tap0,script=no,downscript=no -device virtio-net-device,netdev=tap0
