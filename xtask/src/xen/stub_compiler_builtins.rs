//! Stands in for compiler_builtins: Xen has its own memcpy, memmove, memset and memcmp, and code that needs
//! anything else of that library does not belong in a hypervisor. The link gate names what is missing.

#![feature(compiler_builtins)]
#![compiler_builtins]
#![no_builtins]
#![no_std]
#![allow(internal_features)]
