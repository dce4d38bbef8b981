//! The kernel objects inside this binary, and what to do when one is not.

/// What `build.rs` embedded.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// A kernel object that this binary may carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Object {
    /// Turnpike's datapath.
    Relay,
    /// The tool's own programs: generator, sink, reflector, empty.
    Tool,
    /// The C relay that Turnpike's cost is held against.
    Yardstick,
}

/// The binary was built without an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotEmbedded(pub(crate) Object);

impl std::fmt::Display for NotEmbedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.0 {
            Object::Relay => "Turnpike's kernel program",
            Object::Tool => "its kernel programs",
            Object::Yardstick => "the C yardstick (its build needs clang)",
        };
        write!(
            f,
            "this relay-bench was built without {what}: `cargo xtask build` makes one with it"
        )
    }
}

impl std::error::Error for NotEmbedded {}

impl Object {
    /// The ELF file, aligned for whoever parses it.
    ///
    /// # Errors
    /// This binary was built without it.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, NotEmbedded> {
        let embedded = match self {
            Self::Relay => embedded::RELAY,
            Self::Tool => embedded::TOOL,
            Self::Yardstick => embedded::YARDSTICK,
        };
        embedded.map(<[u8]>::to_vec).ok_or(NotEmbedded(self))
    }
}
