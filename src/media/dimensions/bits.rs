//! Reads single bits from a part of a file.

use super::Window;

/// The bits of a part of a file, the lowest bit of each byte first.
pub(super) struct Bits<'w, 'f> {
    file: &'w mut Window<'f>,
    at: u64,
    end: u64,
    held: u64,
    held_bits: u32,
}

impl<'w, 'f> Bits<'w, 'f> {
    pub(super) fn new(file: &'w mut Window<'f>, at: u64, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            held: 0,
            held_bits: 0,
        }
    }

    /// Returns the next bits: at least 32, with zeros after the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u64 {
        if self.held_bits < 32 {
            self.fill();
        }
        self.held
    }

    fn fill(&mut self) {
        if self.at + 4 <= self.end
            && let Some(bytes) = self.file.array(self.at)
        {
            self.held |= u64::from(u32::from_le_bytes(bytes)) << self.held_bits;
            self.held_bits += 32;
            self.at += 4;
            return;
        }
        while self.held_bits < 32
            && self.at < self.end
            && let Some(byte) = self.file.byte(self.at)
        {
            self.held |= u64::from(byte) << self.held_bits;
            self.held_bits += 8;
            self.at += 1;
        }
    }

    /// Skips at most 32 bits. `None` where there are fewer.
    #[inline]
    pub(super) fn skip(&mut self, bits: u32) -> Option<()> {
        self.held_bits = self.held_bits.checked_sub(bits)?;
        self.held >>= bits;
        Some(())
    }

    /// Reads at most 32 bits as a number. `None` where there are fewer.
    #[inline]
    pub(super) fn read(&mut self, bits: u32) -> Option<u32> {
        let value = self.peek() & ((1 << bits) - 1);
        self.skip(bits)?;
        Some(value as u32)
    }
}
