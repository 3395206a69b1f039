/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMCRYPT_TEST_XEN_H
#define VMCRYPT_TEST_XEN_H

/* Xen has this from its own headers. */
#define PAGE_SIZE 4096
#include "xen/vmcrypt-rust.h"

/* Xen's start, with this page cipher. */
void boot(uint32_t backend);

#endif
