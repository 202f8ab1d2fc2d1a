//! The creation of a device: the driver gets its description and its parameters.

use super::state::State;
use super::{Device, Listener, threads};
use crate::abi::{Params, sys};
use crate::backend::Backend;
use crate::bound::Bound;
use crate::choice::{self, Choice, Offer};
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::nodes::{self, Kind};
use crate::queue::CopyMode;
use crate::spec::{Checked, Spec};
use std::sync::Arc;

impl Device {
    /// Adds a device to the driver. The disk appears with [`start`](Self::start).
    ///
    /// Nothing is left behind when it fails.
    pub fn create(spec: &Spec, backend: Arc<dyn Backend>, bound: &Bound, listener: Listener) -> Result<Self> {
        let unbound = backend.is_unbound();
        let properties = backend.properties();
        let mut checked = if unbound { spec.check_empty(&properties) } else { spec.check(&properties) }?;
        let control = Control::open()?;
        let able = backend.copy_modes();
        let offer = Offer {
            features: control.features(bound).unwrap_or_default(), // drivers before 6.5 do not tell
            able: &able,
            trusted: choice::trusted(),
        };
        if unbound && !offer.features.has(sys::UBLK_F_UPDATE_SIZE.into()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this kernel cannot set the size of a disk that is started",
            )
            .hint("Linux 6.16 or newer can; before, create each disk with its backend"));
        }
        checked.choice = Choice::make(spec.transport, spec.copy, &offer)?;
        threads::check(spec, checked.choice.mode, offer.features)?;
        let info = add(&control, &checked, &checked.info(), bound)?;
        let max_io = info.max_io_buf_bytes.min(spec.max_io);
        let spare = control.clone();
        let state = State::Idle { used: false };
        Self::new(control, &info, checked, max_io, backend, listener, state).inspect_err(|_| {
            // Report the first failure.
            let _ = spare.delete(Target::of(&info), &Bound::standard());
        })
    }
}

/// What is chosen on this kernel, if nothing is asked for, for each of `kinds`: a name, and how disks of that kind can be
/// given the data of requests.
pub fn usual_choices<'a>(
    kinds: impl IntoIterator<Item = (&'a str, &'a [CopyMode])>,
    bound: &Bound,
) -> Result<Vec<(&'a str, Choice)>> {
    Ok(choice::usual(Control::open()?.features(bound)?, kinds))
}

/// Waits until the caller may use a node; root needs no waiting.
pub(super) fn wait_for_access(device: Target, kind: Kind, bound: &Bound) -> Result<()> {
    if device.by_path { nodes::wait_for_access(device.id, kind, bound) } else { Ok(()) }
}

/// Adds a device and sets its parameters. Nothing is left behind when that fails.
pub(super) fn add(
    control: &Control,
    checked: &Checked,
    info: &sys::ublksrv_ctrl_dev_info,
    bound: &Bound,
) -> Result<sys::ublksrv_ctrl_dev_info> {
    let info = control.add(info, bound)?;
    let max_io = info.max_io_buf_bytes.min(checked.spec.max_io);
    let device = Target::of(&info);
    let described = checked
        .kept(info.flags)
        .and_then(|()| wait_for_access(device, Kind::Server, bound))
        .and_then(|()| set_params(control, device, &checked.params(max_io), bound));
    described.inspect_err(|_| {
        // Report the first failure.
        let _ = control.delete(device, &Bound::standard());
    })?;
    Ok(info)
}

/// Sets a device's parameters. The driver ignores kinds of parameters that it does not know: that is an error here.
fn set_params(control: &Control, device: Target, params: &Params, bound: &Bound) -> Result<()> {
    control.set_params(device, params, bound)?;
    let new = params.types & sys::UBLK_PARAM_TYPE_SEGMENT;
    // All drivers have the others, or the feature that needs them shows that they do.
    if new == 0 || control.params(device, bound)?.types & new != 0 {
        return Ok(());
    }
    let message = "the driver cannot limit the memory segments of requests, as the backend requires";
    Err(Error::new(ErrorKind::Unsupported, message).hint("Linux 6.16 or newer can").device(device.id))
}
