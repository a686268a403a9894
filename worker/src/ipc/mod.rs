//! What processes share.

pub mod handoff;
pub mod page;

pub use page::Page;
