//! Ioctls that answer by their return value.

use std::os::raw::c_void;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

/// An ioctl without argument whose answer is its return value.
pub(super) struct Returns<const OPCODE: Opcode>;

// SAFETY: the opcodes used with it (NS_GET_USERNS, NS_GET_NSTYPE, TUNGETDEVNETNS) ignore their argument and change no
// memory of ours.
unsafe impl<const OPCODE: Opcode> Ioctl for Returns<OPCODE> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}
