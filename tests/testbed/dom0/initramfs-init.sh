#!/bin/sh
# First process of dom0: finds the root disk and the shared directories, then hands over to the real start-up script,
# which lives on the share so that a change of it does not rebuild the disk.
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs devtmpfs /dev
for module in $($busybox cat /modules/order); do
    $busybox insmod /modules/$module.ko
done
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    $busybox sleep 0.5
done
$busybox mount -t ext4 -o noatime /dev/vda /root
$busybox mkdir -p /root/share /root/out
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro share /root/share
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /root/out
for dir in proc sys dev; do
    $busybox mount --move /$dir /root/$dir
done
exec $busybox switch_root /root /bin/sh /share/dom0-init.sh
