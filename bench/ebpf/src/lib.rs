//! What `relay-bench` and its kernel programs agree on: names, map layouts, and every rule of the
//! flood that can be tested without a kernel. Touches no packet memory.
#![no_std]
#![forbid(unsafe_code)]

pub mod arrival;
pub mod pace;
pub mod packet;
pub mod state;

/// Program names, as they stand in the object.
pub mod program {
    /// Does nothing with a frame but pass it: what it costs to run a program at all. On an
    /// interface it also makes a veth take frames by XDP.
    pub const EMPTY: &str = "empty";
    /// Sends every frame back where it came from, MAC addresses exchanged, looking at nothing
    /// else: what a rig can carry.
    pub const REFLECTOR: &str = "reflector";
    /// As [`REFLECTOR`], but with a line of memory for each flow: what a rig can carry if the
    /// program remembers anything at all. See [`state`](crate::state).
    pub const STATEFUL_REFLECTOR: &str = "stateful_reflector";
    /// Sends every frame out of another interface, looking at nothing: what a rig can carry from
    /// one link to the next.
    pub const REDIRECTOR: &str = "redirector";
    /// Fills the frames of a test run with one flood packet each and sends them.
    pub const GENERATOR: &str = "generator";
    /// Takes the flood's packets off an interface, judges and counts them.
    pub const SINK: &str = "sink";
    /// As [`GENERATOR`], at less cost: the flood's own work is small beside what it measures.
    pub const GENERATOR_LEAN: &str = "generator_lean";
    /// Takes the packets of [`GENERATOR_LEAN`], with less of a look at each; IPv4 only.
    pub const SINK_LEAN: &str = "sink_lean";
}

/// Runs another program on the same frame again and again.
///
/// `BPF_PROG_TEST_RUN` hands a program its own output when it repeats, and a relay does not take
/// its output for input. The stage writes the headers anew each time, then calls the program in
/// [`SUBJECT`](stage::SUBJECT), which returns to the kernel. What the stage costs is the same for
/// every program, and so is known from a run of an empty one.
pub mod stage {
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    /// The program's name.
    pub const PROGRAM: &str = "stage";
    /// 0 → [`Template`].
    pub const TEMPLATE: &str = "STAGE_TEMPLATE";
    /// 0 → the program to call.
    pub const SUBJECT: &str = "STAGE_SUBJECT";
    /// Bytes in front of the frame that the stage is given. Cutting them off puts the IP header
    /// on a multiple of four, where whole words can be stored: a program that loads a word which
    /// was stored in pieces a moment ago waits for it, and that is not what is to be measured.
    pub const LEAD_BYTES: usize = 2;
    /// Words of [`Template::words`]: Ethernet, IPv6, UDP and the longest message in front of
    /// application data, a Send indication to an IPv6 peer.
    pub const WORDS_MAX: usize = 27;
    /// Where IPv4 has its source address.
    pub const SOURCE_WORD_V4: u16 = 6;
    /// Where IPv6 has the end of its source address.
    pub const SOURCE_WORD_V6: u16 = 8;
    /// Words that every frame has: up to the end of an IPv6 source address.
    pub const WORDS_MIN: usize = SOURCE_WORD_V6 as usize + 1;

    /// The frame to restore.
    #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Template {
        /// State of the generator that picks (xorshift); not 0.
        pub random: u32,
        /// Each frame gets a source address from `source` up to, not including, `source + picks`;
        /// host order. Of an IPv6 address these are the last four bytes. Checksums stay as they
        /// are.
        pub source: u32,
        /// See `source`; 1 or more.
        pub picks: u32,
        /// Bytes of the frame.
        pub frame_bytes: u16,
        /// Bytes of what the subject makes of the frame …
        pub out_bytes: u16,
        /// … and how many of them it put behind the frame's end; negative: took away there. What
        /// was taken away is restored as zeros.
        pub out_tail: i16,
        /// How many of `words` are restored, [`WORDS_MIN`] up to [`WORDS_MAX`]: all that a subject
        /// writes to.
        pub words_count: u16,
        /// Which of `words` holds the source address: [`SOURCE_WORD_V4`] or [`SOURCE_WORD_V6`].
        pub source_word: u16,
        /// The frame's first two bytes (wire).
        pub first: u16,
        /// The frame's next bytes (wire).
        pub words: [u32; WORDS_MAX],
    }
}

/// Map names, as they stand in the object.
pub mod map {
    /// One [`GeneratorConfig`](crate::pace::GeneratorConfig).
    pub const GENERATOR_CONFIG: &str = "GENERATOR_CONFIG";
    /// One [`GeneratorState`](crate::pace::GeneratorState).
    pub const GENERATOR_STATE: &str = "GENERATOR_STATE";
    /// A [`GeneratorFlow`](crate::packet::GeneratorFlow) for each flow.
    pub const GENERATOR_FLOWS: &str = "GENERATOR_FLOWS";
    /// A [`LeanFlow`](crate::packet::LeanFlow) for each flow of the lean generator, which has a
    /// [`GeneratorFlow`](crate::packet::GeneratorFlow) of the first one only.
    pub const LEAN_FLOWS: &str = "LEAN_FLOWS";
    /// The frame that is sent next; behind the headers, what userspace filled it with.
    pub const IMAGE: &str = "IMAGE";
    /// The stateful reflector's [`Line`](crate::state::Line)s.
    pub const FLOW_STATE: &str = "FLOW_STATE";
    /// The MAC addresses that the redirector writes: destination, source.
    pub const REDIRECT_MACS: &str = "REDIRECT_MACS";
    /// 0 → the interface that the redirector sends to.
    pub const REDIRECT_PORT: &str = "REDIRECT_PORT";
    /// One [`SinkConfig`](crate::packet::SinkConfig).
    pub const SINK_CONFIG: &str = "SINK_CONFIG";
    /// A [`SinkFlow`](crate::packet::SinkFlow) for each flow.
    pub const SINK_FLOWS: &str = "SINK_FLOWS";
    /// [`SinkCounts`](crate::packet::SinkCounts), per CPU.
    pub const SINK_COUNTS: &str = "SINK_COUNTS";
}

/// Flows that an object has room for unless its loader asks for another number.
pub const FLOWS_MAX: u32 = 65_535;
