//! Runs programs as the kernel does (net/core/filter.c, kernel/seccomp.c).

/// One instruction: code, `jt`, `jf`, `k`.
pub(crate) type Instruction = (u16, u8, u8, u32);

/// What a filter is asked about: `struct seccomp_data` without the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) architecture: u32,
    pub(crate) number: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn load(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 => (self.args[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
            _ => panic!("offset {offset} is not asked for by any filter"),
        }
    }
}

/// What a program returns.
pub(crate) fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.load(k),
            0x54 => accumulator &= k,
            0x06 => return k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// Instructions from their bytes, as hexadecimal.
pub(crate) fn parse(text: &str) -> Vec<Instruction> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    let instruction = |bytes: &[u8]| {
        let k = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        (u16::from_le_bytes([bytes[0], bytes[1]]), bytes[2], bytes[3], k)
    };
    bytes.chunks_exact(8).map(instruction).collect()
}
