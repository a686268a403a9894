//! What crosses the pipes between a parent and its worker. The picture is in `README.md` beside this file.

pub mod codec;
pub mod connection;
pub mod frame;
pub mod handshake;
pub mod kept;
pub mod message;
mod parcel;
pub mod tray;

pub use codec::CodecError;
pub use frame::{Frame, FrameError, Inbox};
pub use tray::Tray;
