//! Seed 0, the last program: a function of three arguments through `Pool::map`, which hands over one.
//!
//! The seed packs the arguments into one tuple by hand. Here that works as well, and [`Pool::starmap`] makes it
//! unnecessary: its items are the argument tuples of an ordinary function. Prints `[5, 26]` twice.
//!
//! ```sh
//! cargo run --example seed0_line
//! ```

use procession::Pool;
use std::error::Error;

/// A point of a line, its three arguments packed into one.
fn packed_line((x, a, b): (i64, i64, i64)) -> i64 {
    a * x + b
}

/// The same with arguments of its own.
fn line(x: i64, a: i64, b: i64) -> i64 {
    a * x + b
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;
    println!("{:?}", pool.map(packed_line, [(1, 2, 3), (4, 5, 6)])?);
    println!("{:?}", pool.starmap(line, [(1, 2, 3), (4, 5, 6)])?);
    Ok(())
}
