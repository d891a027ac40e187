//! The kernel's BPF machine: its instructions, and programs that watch a cgroup.
//!
//! Owns the encoding (kernel.org `bpf/standardization/instruction-set.rst`) and the two calls that
//! load a program and attach it. A program stays attached as long as its cgroup exists, whoever
//! has ended. Does not know what is watched; see [`crate::sysctls`].

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;

/// Registers: 0 is the result, 1 the context and first argument, 10 the end of the stack.
pub(crate) type Register = u8;

/// One instruction; a jump knows its target by number until the program is complete.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: u32,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// How many bytes are loaded or stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Width {
    Word,
    Double,
}

/// A program that is being written.
#[derive(Debug, Default)]
pub(crate) struct Program {
    instructions: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<usize>,
    /// Jumps that wait for their label: the instruction, the label.
    jumps: Vec<(usize, Label)>,
}

impl Width {
    fn bits(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Double => 0x18,
        }
    }
}

impl Program {
    fn push(&mut self, code: u8, (to, from): (Register, Register), offset: i16, value: u32) {
        self.instructions.push(Instruction {
            code,
            registers: from << 4 | to,
            offset,
            value,
        });
    }

    /// `to = *(from + offset)`.
    pub(crate) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.push(0x61 | width.bits(), (to, from), offset, 0);
    }

    /// `*(to + offset) = 0`, eight bytes.
    pub(crate) fn clear(&mut self, to: Register, offset: i16) {
        self.push(0x7a, (to, 0), offset, 0);
    }

    /// `to = from + value`.
    pub(crate) fn address(&mut self, to: Register, from: Register, value: i16) {
        self.push(0xbf, (to, from), 0, 0);
        self.push(0x07, (to, 0), 0, i32::from(value).cast_unsigned());
    }

    /// `to = value`.
    pub(crate) fn set(&mut self, to: Register, value: u32) {
        self.push(0xb4, (to, 0), 0, value);
    }

    /// `to = value`, eight bytes.
    pub(crate) fn set_double(&mut self, to: Register, value: u64) {
        let [low, high] = [value & 0xffff_ffff, value >> 32];
        self.push(0x18, (to, 0), 0, u32::try_from(low).unwrap_or_default());
        self.push(0, (0, 0), 0, u32::try_from(high).unwrap_or_default());
    }

    /// Calls a helper of the kernel.
    pub(crate) fn call(&mut self, helper: u32) {
        self.push(0x85, (0, 0), 0, helper);
    }

    /// Jumps when the lower four bytes of the register are `value`.
    pub(crate) fn if_is(&mut self, register: Register, value: u32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(0x16, (register, 0), 0, value);
    }

    /// Jumps when the registers differ.
    pub(crate) fn if_differ(&mut self, one: Register, other: Register, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(0x5d, (one, other), 0, 0);
    }

    /// Ends with a result.
    pub(crate) fn end(&mut self, result: u32) {
        self.set(0, result);
        self.push(0x95, (0, 0), 0, 0);
    }

    /// A label that is put somewhere later.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub(crate) fn here(&mut self, label: Label) {
        self.labels[label.0] = self.instructions.len();
    }

    /// The machine's bytes.
    fn encoded(&self) -> Result<Vec<u8>> {
        let mut instructions = self.instructions.clone();
        for (at, label) in &self.jumps {
            let distance = self.labels[label.0].checked_sub(at + 1);
            instructions[*at].offset = distance
                .and_then(|distance| i16::try_from(distance).ok())
                .context("a jump leads nowhere")?;
        }
        let bytes = instructions.iter().flat_map(|one| {
            let mut eight = [one.code, one.registers, 0, 0, 0, 0, 0, 0];
            eight[2..4].copy_from_slice(&one.offset.to_le_bytes());
            eight[4..].copy_from_slice(&one.value.to_le_bytes());
            eight
        });
        Ok(bytes.collect())
    }
}

/// Programs that are asked about reads and writes of sysctls (linux/bpf.h,
/// `BPF_PROG_TYPE_CGROUP_SYSCTL`, `BPF_CGROUP_SYSCTL`).
const SYSCTL_PROGRAM: u32 = 23;
const SYSCTL_HOOK: u32 = 18;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
/// `BPF_F_ALLOW_MULTI`: beside the programs of others, and not to be taken away without ours.
const BESIDE_OTHERS: u32 = 1 << 1;
const LICENCE: &std::ffi::CStr = c"Apache-2.0";

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

/// The part of `union bpf_attr` that attaches one.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    attach: u32,
    flags: u32,
}

/// Makes the kernel ask `program` whenever a process in the cgroup, or below it, reads or writes a
/// sysctl.
///
/// # Errors
/// When the kernel does not take the program or has no such hook.
pub(crate) fn watch_sysctls(cgroup: &File, program: &Program) -> Result<()> {
    let bytes = program.encoded()?;
    let mut load = Load {
        kind: SYSCTL_PROGRAM,
        instructions: u32::try_from(bytes.len() / 8)?,
        program: bytes.as_ptr() as u64,
        licence: LICENCE.as_ptr() as u64,
        attach: SYSCTL_HOOK,
        ..Load::default()
    };
    load.name[..5].copy_from_slice(b"dindd");
    let loaded = bpf(PROG_LOAD, &load).context("the kernel does not take the program")?;
    #[expect(unsafe_code, reason = "the call's result is a new descriptor")]
    // SAFETY: the kernel has just made it, and nobody else knows it.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = Attach {
        cgroup: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        attach: SYSCTL_HOOK,
        flags: BESIDE_OTHERS,
    };
    bpf(PROG_ATTACH, &attach).context("the kernel does not attach the program")?;
    Ok(())
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i32, Errno> {
    #[expect(unsafe_code, reason = "no crate of ours has bpf")]
    // SAFETY: the attributes are as long as is said, and what they point at outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    Errno::result(done).map(|done| i32::try_from(done).unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_encoded_as_the_machine_reads_it() {
        let mut program = Program::default();
        let over = program.label();
        program.load(Width::Double, 2, 1, -8);
        program.if_is(2, 7, over);
        program.end(1);
        program.here(over);
        program.end(0);
        assert_eq!(
            program.encoded().unwrap(),
            [
                [0x79, 0x12, 0xf8, 0xff, 0, 0, 0, 0],
                [0x16, 0x02, 2, 0, 7, 0, 0, 0],
                [0xb4, 0, 0, 0, 1, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
                [0xb4, 0, 0, 0, 0, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat()
        );
    }

    #[test]
    fn a_jump_without_a_target_is_an_error() {
        let mut program = Program::default();
        let nowhere = program.label();
        program.if_is(1, 0, nowhere);
        program.encoded().unwrap_err();
    }

    #[test]
    fn the_attributes_are_where_the_kernel_reads_them() {
        // Offsets in union bpf_attr (linux/bpf.h).
        assert_eq!(std::mem::offset_of!(Load, name), 48);
        assert_eq!(std::mem::offset_of!(Load, attach), 68);
    }
}
