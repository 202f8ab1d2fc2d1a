//! A disk whose data lives with whoever takes its seats.

use super::{Backend, Engine, Properties, Site};
use crate::error::{Error, ErrorKind, Result};

/// See the [module](self).
pub struct External {
    properties: Properties,
}

impl External {
    /// A disk that is promised to be so.
    pub fn new(properties: Properties) -> Self {
        Self { properties }
    }
}

impl Backend for External {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn engine(&self, _site: &Site) -> Result<Box<dyn Engine + '_>> {
        Err(Error::new(ErrorKind::Unsupported, "this disk has no native engine: its seats have to be taken"))
    }
}
