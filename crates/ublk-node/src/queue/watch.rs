//! Lets a thread's event loop watch a queue: libuv polls a descriptor and calls a JavaScript function.

use super::uv::{Handle, Uv, uv};
use napi::bindgen_prelude::{Function, FunctionRef};
use napi::{Env, Error, JsValue, Result, Status, sys};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use ublk_core::queue::Waker;

/// `UV_READABLE`
const READABLE: c_int = 1;
/// `UV_POLL` of `uv_handle_type`
const POLL: c_int = 8;

/// A watched descriptor, until dropped. Belongs to the thread that made it.
pub struct Watch {
    uv: &'static Uv,
    handle: *mut Handle,
    /// Whether it was not closed yet. Shared with the clean-up hook, which may come first.
    open: Rc<Cell<bool>>,
}

/// What libuv's callbacks need; freed when libuv has closed the handle.
struct Target {
    uv: &'static Uv,
    env: Env,
    context: sys::napi_async_context,
    hook: sys::napi_async_cleanup_hook_handle,
    callback: FunctionRef<(), ()>,
    /// Not closed before libuv has let go of it.
    bell: Waker,
    open: Rc<Cell<bool>>,
    /// The handle itself, at the alignment that any of C's types wants.
    storage: Box<[u128]>,
}

impl Watch {
    /// Calls `callback` whenever `bell` is rung. It has been cleared by then.
    pub fn new(env: &Env, bell: Waker, callback: &Function<'_, (), ()>) -> Result<Self> {
        let uv = uv()?;
        let uv_loop = env.get_uv_event_loop()?;
        let name = env.create_string("ublk-ts")?;
        let fd = bell.fd();
        let open = Rc::new(Cell::new(true));
        // SAFETY: only asks for a size.
        let size = unsafe { (uv.handle_size)(POLL) };
        let target = Box::into_raw(Box::new(Target {
            uv,
            env: *env,
            context: std::ptr::null_mut(),
            hook: std::ptr::null_mut(),
            callback: callback.create_ref()?,
            bell,
            open: open.clone(),
            storage: vec![0; size.div_ceil(size_of::<u128>())].into(),
        }));
        // SAFETY: values of this environment. The handle lives in `target`, which stays at its place until closed()
        // frees it. libuv and Node call back on this thread only.
        unsafe {
            let handle: *mut Handle = (*target).storage.as_mut_ptr().cast();
            if (uv.poll_init)(uv_loop, handle, fd) != 0 {
                drop(Box::from_raw(target));
                return Err(Error::from_reason("libuv cannot poll the queue"));
            }
            (uv.handle_set_data)(handle, target.cast());
            let watch = Self { uv, handle, open };
            check(sys::napi_async_init(
                env.raw(),
                std::ptr::null_mut(),
                name.raw(),
                &raw mut (*target).context,
            ))?;
            // An environment may only end when libuv has closed the handle.
            check(sys::napi_add_async_cleanup_hook(
                env.raw(),
                Some(leaving),
                handle.cast(),
                &raw mut (*target).hook,
            ))?;
            if (uv.poll_start)(handle, READABLE, readable) != 0 {
                return Err(Error::from_reason("libuv cannot poll the queue"));
            }
            Ok(watch)
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.open.replace(false) {
            // SAFETY: open, and closed once, here, on the loop's own thread.
            unsafe { (self.uv.close)(self.handle, closed) };
        }
    }
}

unsafe extern "C" fn leaving(_hook: sys::napi_async_cleanup_hook_handle, handle: *mut c_void) {
    // SAFETY: the hook is removed when the handle is closed, so it is there.
    let target = unsafe { &*target_of(handle) };
    if target.open.replace(false) {
        // SAFETY: as in drop().
        unsafe { (target.uv.close)(handle, closed) };
    }
}

/// What belongs to a handle.
fn target_of(handle: *mut Handle) -> *mut Target {
    // A handle that is watched was made with these functions.
    let Ok(uv) = uv() else { return std::ptr::null_mut() };
    // SAFETY: a handle of libuv, made in new().
    unsafe { (uv.handle_get_data)(handle).cast() }
}

unsafe extern "C" fn closed(handle: *mut Handle) {
    // SAFETY: what new() leaked; the storage of the handle goes with it, and libuv is done with that.
    let target = unsafe { Box::from_raw(target_of(handle)) };
    // SAFETY: made in new() and given back once. Either may be missing, if making it failed.
    unsafe {
        if !target.context.is_null() {
            sys::napi_async_destroy(target.env.raw(), target.context);
        }
        if !target.hook.is_null() {
            sys::napi_remove_async_cleanup_hook(target.hook);
        }
    }
}

unsafe extern "C" fn readable(handle: *mut Handle, _status: c_int, _events: c_int) {
    // SAFETY: the data is set before the poll is started and freed after it is closed.
    let target = unsafe { &*target_of(handle) };
    target.bell.clear();
    if target.open.get() {
        call(target);
    }
}

/// Calls the function as Node calls its own callbacks: microtasks and `nextTick` run afterwards, and what it throws
/// is an uncaught exception.
fn call(target: &Target) {
    let raw = target.env.raw();
    let mut scope = std::ptr::null_mut();
    // SAFETY: values of this environment, within a scope that is opened and closed here.
    unsafe {
        if sys::napi_open_handle_scope(raw, &raw mut scope) != sys::Status::napi_ok {
            return; // the environment is ending
        }
        let mut global = std::ptr::null_mut();
        let mut result = std::ptr::null_mut();
        if let Ok(callback) = target.callback.borrow_back(&target.env) {
            sys::napi_get_global(raw, &raw mut global);
            let (context, none) = (target.context, std::ptr::null());
            let status =
                sys::napi_make_callback(raw, context, global, callback.raw(), 0, none, &raw mut result);
            let mut error = std::ptr::null_mut();
            if status == sys::Status::napi_pending_exception
                && sys::napi_get_and_clear_last_exception(raw, &raw mut error) == sys::Status::napi_ok
            {
                sys::napi_fatal_exception(raw, error);
            }
        }
        sys::napi_close_handle_scope(raw, scope);
    }
}

fn check(status: sys::napi_status) -> Result<()> {
    match Status::from(status) {
        Status::Ok => Ok(()),
        status => Err(Error::new(status, "Node refused a call")),
    }
}
