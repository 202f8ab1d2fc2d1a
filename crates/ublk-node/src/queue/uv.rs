//! Node's own libuv. Its functions are looked up when a queue first needs one, and not linked: runtimes that lack them can
//! load the native part all the same, and serve native disks.

use napi::{Error, Result, sys};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

/// libuv's handles are opaque here: their size is asked for.
pub type Handle = c_void;
/// Called when a polled descriptor has something to read.
pub type OnEvent = unsafe extern "C" fn(*mut Handle, c_int, c_int);
/// Called when a handle is closed.
pub type OnClosed = unsafe extern "C" fn(*mut Handle);

/// The functions, as libuv declares them.
pub struct Uv {
    /// What a loop sleeps on. It has something to read when there is a message, or the thread is to end.
    pub backend_fd: unsafe extern "C" fn(*const sys::uv_loop_s) -> c_int,
    pub handle_size: unsafe extern "C" fn(c_int) -> usize,
    pub poll_init: unsafe extern "C" fn(*mut sys::uv_loop_s, *mut Handle, c_int) -> c_int,
    pub poll_start: unsafe extern "C" fn(*mut Handle, c_int, OnEvent) -> c_int,
    pub handle_set_data: unsafe extern "C" fn(*mut Handle, *mut c_void),
    pub handle_get_data: unsafe extern "C" fn(*const Handle) -> *mut c_void,
    pub close: unsafe extern "C" fn(*mut Handle, OnClosed),
}

/// Fails if this runtime is not Node.
pub fn uv() -> Result<&'static Uv> {
    static FOUND: OnceLock<Option<Uv>> = OnceLock::new();
    FOUND
        .get_or_init(look_up)
        .as_ref()
        .ok_or_else(|| Error::from_reason("this runtime has no libuv, as Node has"))
}

fn look_up() -> Option<Uv> {
    // SAFETY: each symbol, where there is one, is the function of libuv that has this name, and so the field's type.
    unsafe {
        Some(Uv {
            backend_fd: function(c"uv_backend_fd")?,
            handle_size: function(c"uv_handle_size")?,
            poll_init: function(c"uv_poll_init")?,
            poll_start: function(c"uv_poll_start")?,
            handle_set_data: function(c"uv_handle_set_data")?,
            handle_get_data: function(c"uv_handle_get_data")?,
            close: function(c"uv_close")?,
        })
    }
}

/// # Safety
/// `F` is the type of pointers to the function that has this name, where there is one.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: a name that ends with a zero byte; only looks it up.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: both are pointers, and by the caller's promise it is one to such a function.
    (!found.is_null()).then(|| unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}
