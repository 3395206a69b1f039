//! Vector backends of the page cipher.
#![no_std]
