//! The device with a guest that is played by the tests, and real sockets.

mod guest;
mod lifecycle;
mod properties;
mod transfer;
