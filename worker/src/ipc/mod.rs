//! What processes share.

pub mod handoff;
pub mod keep;
pub mod lane;
pub mod page;

pub use page::Page;
