//! A program that knows nothing of processes: it calls a library.

mod statics;

use innocent_library::{elsewhere, sum_far_away, sum_of_squares};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // Were this line run by a worker, the test would see it twice.
    println!("main");
    println!("sum {}", sum_of_squares(10)?);
    println!("far sum {}", sum_far_away(10)?);
    println!("ready {:?} {:?}", statics::ready(), elsewhere(statics::ready, ())?);
    println!("flag {:?} {:?}", statics::saw_flag(), elsewhere(statics::saw_flag, ())?);
    println!("whole {} {}", statics::saw_whole(), elsewhere(statics::saw_whole, ())?);
    let arguments = || std::env::args().collect::<Vec<_>>();
    println!("arguments {}", arguments() == elsewhere(arguments, ())?);
    Ok(())
}
