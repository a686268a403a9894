//! Seed 1, "Queue": a child puts a list of anything, the parent gets it.
//!
//! Prints `[42, None, 'hello']`, as Python does. A queue has one type of items; what Python leaves open is an enum here.
//!
//! ```sh
//! cargo run --example seed1_queue
//! ```

use procession::{Process, Queue};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;

#[derive(Serialize, Deserialize)]
enum Object {
    Int(i64),
    None,
    Str(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::None => f.write_str("None"),
            Self::Str(text) => write!(f, "'{text}'"),
        }
    }
}

fn f(q: Queue<Vec<Object>>) {
    q.put(vec![Object::Int(42), Object::None, Object::Str("hello".into())]).expect("the parent waits for it");
}

fn main() -> Result<(), Box<dyn Error>> {
    let q = Queue::new();
    let p = Process::new(f, (q.clone(),)).start()?;
    let list: Vec<String> = q.get()?.iter().map(Object::to_string).collect();
    println!("[{}]", list.join(", "));
    p.join()?;
    Ok(())
}
