//! CRC-32C (Castagnoli), as iSCSI and ext4 use it.

#[expect(clippy::cast_possible_truncation, reason = "a byte")]
const fn table() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[level - 1][byte];
            tables[level][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        level += 1;
    }
    tables
}

static TABLES: [[u32; 256]; 8] = table();

/// The checksum of `bytes` after those of which `before` is the checksum; of none it is 0.
pub fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    let mut sum = !before;
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let [a, b, c, d, e, f, g, h] = word.try_into().unwrap_or([0; 8]);
        let [i, j, k, l] = sum.to_le_bytes();
        let at = |level: usize, byte: u8| TABLES[level][usize::from(byte)];
        sum = at(7, a ^ i)
            ^ at(6, b ^ j)
            ^ at(5, c ^ k)
            ^ at(4, d ^ l)
            ^ at(3, e)
            ^ at(2, f)
            ^ at(1, g)
            ^ at(0, h);
    }
    for byte in rest {
        sum = sum >> 8 ^ TABLES[0][usize::from(sum.to_le_bytes()[0] ^ byte)];
    }
    !sum
}
