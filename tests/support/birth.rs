//! A constructor that spoils the birth of those workers whose environment asks for it.
#![allow(unsafe_code, reason = "a constructor is found by its section")]

/// Its section is sorted before the library's own, so it strikes while the program is still loading.
// SAFETY: `.init_array` holds pointers to functions of this type, and this is one. In every process that is not a
// worker drilled so it looks for one environment variable and returns.
#[used]
#[unsafe(link_section = ".init_array.01000")]
static SPOIL: extern "C" fn() = spoil;

extern "C" fn spoil() {
    procession::drill::at_birth();
}
