//! Blocking work of the engine as a promise.
//!
//! Each task gets a thread of its own and never one of libuv's: those four may all be waiting for the very disk that the task
//! is to stop.

use crate::task_threads;
use napi::bindgen_prelude::{Object, ToNapiValue, Unknown};
use napi::{Env, Error, JsValue, Result};
use ublk_core::error::{Error as CoreError, Result as CoreResult};

/// Runs `work` on a thread; `convert` makes the JavaScript value of its result, on the JavaScript thread.
pub fn promise<'env, T, R>(
    env: &'env Env,
    work: impl FnOnce() -> CoreResult<T> + Send + 'static,
    convert: impl FnOnce(Env, T) -> Result<R> + Send + 'static,
) -> Result<Object<'env>>
where
    T: Send + 'static,
    R: ToNapiValue + 'static,
{
    let (deferred, promise) = env.create_deferred()?;
    task_threads::run(move || {
        // A panic becomes a rejection: it must not leave the promise pending for ever.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(CoreError::new(ublk_core::ErrorKind::System, "the native part panicked: this is a bug"))
        });
        deferred.resolve(move |env| match done {
            Ok(value) => convert(env, value),
            Err(error) => Err(to_js(&env, &error)?),
        });
    })
    .map_err(|error| Error::from_reason(format!("cannot start a thread: {error}")))?;
    Ok(promise)
}

/// The engine's error as a JavaScript `Error` whose own properties say what is known.
fn to_js(env: &Env, error: &CoreError) -> Result<Error> {
    let mut object = env.create_error(Error::from_reason(error.message.clone()))?;
    object.set("kind", error.kind.name())?;
    object.set("command", error.command)?;
    object.set("device", error.device)?;
    object.set("errno", error.errno)?;
    object.set("code", error.code())?;
    // TypeScript has each surface's words for what stands in braces.
    object.set(
        "hint",
        error.hint.as_ref().map(|hint| hint.worded(|remedy| format!("{{{}}}", remedy.name()))),
    )?;
    if let Some(source) = &error.source {
        object.set("cause", env.create_error(Error::from_reason(source.to_string()))?)?;
    }
    let value: Unknown<'_> = object.to_unknown();
    Ok(Error::from(value))
}

/// The engine's error as an exception.
pub fn raised(env: &Env, error: &CoreError) -> Error {
    to_js(env, error).unwrap_or_else(|failed| failed)
}
