//! What processes share.

pub mod page;

pub use page::Page;
