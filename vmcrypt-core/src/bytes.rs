//! Reading and writing little-endian numbers in byte slices without a way to panic.

/// Takes values from the front of a slice.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Puts values one behind the other into a slice.
pub struct Writer<'a> {
    out: &'a mut [u8],
    position: usize,
}

impl<'a> Writer<'a> {
    /// A writer to the front of `out`.
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, position: 0 }
    }

    /// Bytes written.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Writes `bytes`; None if they do not fit.
    pub fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.position.checked_add(bytes.len())?;
        self.out.get_mut(self.position..end)?.copy_from_slice(bytes);
        self.position = end;
        Some(())
    }

    /// Writes a number of four bytes.
    pub fn u32(&mut self, value: u32) -> Option<()> {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes a number of eight bytes.
    pub fn u64(&mut self, value: u64) -> Option<()> {
        self.bytes(&value.to_le_bytes())
    }

    /// Overwrites the eight bytes at `position`.
    pub fn u64_at(&mut self, position: usize, value: u64) -> Option<()> {
        let end = position.checked_add(8)?;
        self.out
            .get_mut(position..end)?
            .copy_from_slice(&value.to_le_bytes());
        Some(())
    }
}
