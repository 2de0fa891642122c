//! Loaded by Node as an addon → the table's memory as an ArrayBuffer, which the Node hook writes instead of a file.
//!
//! <https://nodejs.org/api/n-api.html>. Its functions are the program's own: they are looked up, not linked.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

use crate::hooks::map;
use crate::libc;

type CreateExternalArrayBuffer = unsafe extern "C" fn(
    *mut c_void,
    *mut c_void,
    usize,
    *const c_void,
    *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// Gives what the module exports: an ArrayBuffer, or what it would have exported when there is no table, or when this Node
/// wants no memory from outside. Each thread's has a mapping of its own, which stays.
///
/// # Safety
/// Called by Node with an environment of its own.
#[cfg_attr(shared_object, unsafe(no_mangle))]
pub unsafe extern "C" fn napi_register_module_v1(
    environment: *mut c_void,
    exports: *mut c_void,
) -> *mut c_void {
    let create = libc::anywhere("napi_create_external_arraybuffer\0");
    // SAFETY: getenv gives a string or nothing; the function of this name has this type.
    unsafe {
        let path = libc::getenv(c"RIPSTOP_TRACE".as_ptr());
        if create.is_null() || path.is_null() {
            return exports;
        }
        let Some((memory, bytes)) = map(path) else {
            return exports;
        };
        let create: CreateExternalArrayBuffer = core::mem::transmute(create);
        let mut buffer = null_mut();
        let none = null_mut();
        match create(environment, memory, bytes, none, none, &mut buffer) {
            0 => buffer,
            _ => exports,
        }
    }
}
