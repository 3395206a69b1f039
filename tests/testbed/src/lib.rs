//! dom0 image and QEMU runner.
