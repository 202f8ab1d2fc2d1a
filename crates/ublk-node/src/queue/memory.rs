//! Native memory as an `ArrayBuffer`.

use napi::bindgen_prelude::{FromNapiValue, Unknown};
use napi::{Env, Error, Result, Status, sys};
use std::ffi::c_void;
use std::sync::Arc;
use ublk_core::Mapping;

/// V8 in Node 20 can make no larger one.
const LARGEST: usize = 4 << 30;

/// Wraps the mapping, which stays until V8 lets go of the buffer. To be called once per mapping: V8 aborts when it
/// sees an address twice.
pub fn array_buffer<'env>(env: &'env Env, memory: Arc<Mapping>) -> Result<Unknown<'env>> {
    let length = memory.length();
    if length > LARGEST {
        return Err(Error::new(
            Status::InvalidArg,
            format!("{length} bytes of buffers are more than JavaScript can address: lower depth or maxIo"),
        ));
    }
    let address = memory.base().as_ptr();
    let hold = Box::into_raw(Box::new(memory));
    let mut value = std::ptr::null_mut();
    // SAFETY: the mapping lives until release() drops the Arc, which V8 calls once, when nothing in JavaScript can
    // reach the buffer any more.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            address.cast(),
            length,
            Some(release),
            hold.cast(),
            &raw mut value,
        )
    };
    match Status::from(status) {
        // SAFETY: a value that Node has just made, in this scope.
        Status::Ok => unsafe { Unknown::from_napi_value(env.raw(), value) },
        status => {
            // SAFETY: Node did not take it.
            drop(unsafe { Box::from_raw(hold) });
            Err(Error::new(status, "this runtime does not let JavaScript see native memory"))
        }
    }
}

unsafe extern "C" fn release(_env: sys::napi_env, _address: *mut c_void, hold: *mut c_void) {
    // SAFETY: what array_buffer() leaked, given back once.
    drop(unsafe { Box::from_raw(hold.cast::<Arc<Mapping>>()) });
}
