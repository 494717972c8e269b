//! `DEVICES`: what the packet programs read about the node's devices.

use std::collections::BTreeMap;
use std::io;

use svclb_common::{DeviceValue, maps as names};

use crate::maps::read::read_all;
use crate::pins::Pins;
use crate::sys::{self, Map};

/// The only writer of `DEVICES`.
#[derive(Debug)]
pub struct Devices(Map);

impl Devices {
    pub(crate) fn open(pins: &Pins) -> io::Result<Self> {
        Map::open(&pins.map(names::DEVICES)).map(Self)
    }

    /// Writes the entry of a device, by its index.
    ///
    /// # Errors
    /// The system's error.
    pub fn put(&self, index: u32, value: &DeviceValue) -> io::Result<()> {
        self.0.update(sys::bytes(&index), sys::bytes(value))
    }

    /// All entries, by device index.
    ///
    /// # Errors
    /// The system's error.
    pub fn list(&self) -> io::Result<BTreeMap<u32, DeviceValue>> {
        Ok(read_all(&self.0)?.into_iter().collect())
    }

    /// Deletes the entry of a device.
    ///
    /// # Errors
    /// The system's error.
    pub fn delete(&self, index: u32) -> io::Result<()> {
        self.0.delete(sys::bytes(&index))
    }
}
