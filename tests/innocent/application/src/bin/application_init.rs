//! A program that wants no code to run before its `main`: its workers start at `init`, main's first line.

#[path = "../statics.rs"]
mod statics;

use innocent_library::{elsewhere, sum_far_away, sum_of_squares};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    println!("main");
    println!("sum {}", sum_of_squares(10)?);
    println!("far sum {}", sum_far_away(10)?);
    println!("ready {:?} {:?}", statics::ready(), elsewhere(statics::ready, ())?);
    println!("flag {:?}", statics::saw_flag());
    println!("whole {} {}", statics::saw_whole(), elsewhere(statics::saw_whole, ())?);
    let arguments = || std::env::args().collect::<Vec<_>>();
    println!("arguments {}", arguments() == elsewhere(arguments, ())?);
    // std's own start has run there: the main thread has its name.
    let thread = || std::thread::current().name().map(str::to_owned);
    println!("thread {:?}", elsewhere(thread, ())?);
    Ok(())
}
