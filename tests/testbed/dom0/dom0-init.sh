#!/bin/sh
# Starts what a Xen dom0 runs, with Debian's programs and none of systemd's time, then serves the host.
# Stays process 1: the shell reaps whatever loses its parent.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
xen=/usr/lib/xen-4.20/bin

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /run/lock /run/xen /run/xenstored /var/log/xen/console /var/lib/xen /var/lib/xenstored
mount -t devpts devpts /dev/pts
# As udev makes them; Xen's hotplug scripts would wait for their lock forever without.
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
modprobe -a xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs virtio-rng loop xen-blkback xen-netback bridge
mount -t xenfs xenfs /proc/xen

case $(cat /proc/cmdline) in
*vmcrypt.store=oxenstored*) $xen/oxenstored --pid-file /run/xen/xenstored.pid ;;
*) $xen/xenstored --pid-file /run/xen/xenstored.pid ;;
esac
for try in $(seq 100); do
    xenstore-read / >/dev/null 2>&1 && break
    sleep 0.1
done
$xen/xen-init-dom0
# Guests that never rest share one CPU with dom0 here, and libxl gives a hotplug script 40 seconds.
xl sched-credit2 -d 0 -w 2048
$xen/xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xen/xenconsoled.pid

ip link set lo up
ip link add xenbr0 type bridge
ip addr add 10.77.0.1/24 dev xenbr0
ip link set xenbr0 up

# From the share to the disk: what runs should not depend on the file system that carries it.
cp /share/vmcrypt* /usr/local/bin/
vmcrypt-agent echo 10.77.0.1:7777 &
case $(cat /proc/cmdline) in
*vmcrypt.shell*)
    cat /share/motd
    cd /share
    setsid sh -c 'exec bash -l </dev/hvc0 >/dev/hvc0 2>&1'
    echo o >/proc/sysrq-trigger
    ;;
esac
while :; do
    vmcrypt-agent serve
    sleep 1
done
