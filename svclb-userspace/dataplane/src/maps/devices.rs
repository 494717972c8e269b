//! `DEVICES`: what the packet programs know of the node's devices.

use std::io;

use svclb_common::{DeviceValue, maps as names};

use crate::pins::Pins;
use crate::sys::{self, Map};

/// The only writer of `DEVICES`.
#[derive(Debug)]
pub struct Devices(Map);

impl Devices {
    pub(crate) fn open(pins: &Pins) -> io::Result<Self> {
        Map::open(&pins.map(names::DEVICES)).map(Self)
    }

    /// Writes what is known of a device, by its index.
    ///
    /// # Errors
    /// What the system said.
    pub fn put(&self, index: u32, value: &DeviceValue) -> io::Result<()> {
        self.0.update(sys::bytes(&index), sys::bytes(value))
    }

    /// What is known of a device.
    ///
    /// # Errors
    /// What the system said.
    pub fn get(&self, index: u32) -> io::Result<Option<DeviceValue>> {
        let mut buffer = vec![0; self.0.value_size];
        if self.0.lookup(sys::bytes(&index), &mut buffer)? {
            sys::value(&buffer).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Forgets a device.
    ///
    /// # Errors
    /// What the system said.
    pub fn delete(&self, index: u32) -> io::Result<()> {
        self.0.delete(sys::bytes(&index))
    }
}
