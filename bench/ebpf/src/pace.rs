//! When the generator sends which flow's packet. Reads no clock and sends nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A generator that is further behind than this leaves packets out, nanoseconds: a burst of more
/// would measure the burst.
pub const LAG_MAX_NS: u64 = 100_000_000;

/// Packets that the lean generator sends for one look at the clock.
pub const LEAN_BURST: u64 = 16;

/// How many times the rate a generator that is behind sends at most.
const CATCH_UP: u64 = 4;

/// What a generator does, the same for its whole run.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeneratorConfig {
    /// Packets a second over all flows; 0: as many as it can.
    pub rate: u64,
    /// How long packets are due, nanoseconds.
    pub duration_ns: u64,
    /// Between two packets, nanoseconds, rounded down.
    pub interval_ns: u64,
    /// What the rounding leaves, in units of 1/`rate` nanoseconds.
    pub remainder: u64,
    /// Flows that take turns.
    pub flows: u32,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// Bytes of the image before the frame.
    pub lead: u32,
    /// The image's word that the payload begins with.
    pub payload_word: u32,
    /// The image's word that holds the UDP checksum.
    pub checksum_word: u32,
    /// The checksum's place in that word, bits.
    pub checksum_shift: u32,
    /// Of the lean generator: where in the frame the sequence number is, an even byte.
    pub sequence_at: u32,
    /// Zero.
    pub reserved: u32,
}

impl GeneratorConfig {
    /// Sets what follows from a rate in packets a second; 0: flat out.
    #[must_use]
    pub const fn with_rate(mut self, rate: u64) -> Self {
        const SECOND_NS: u64 = 1_000_000_000;
        self.rate = rate;
        (self.interval_ns, self.remainder) = match rate {
            0 => (0, 0),
            rate => (SECOND_NS / rate, SECOND_NS % rate),
        };
        self
    }
}

/// How far a generator has come.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeneratorState {
    /// When it first ran (`CLOCK_MONOTONIC`, nanoseconds); 0: not yet.
    pub start_ns: u64,
    /// When the next packet is due.
    pub due_ns: u64,
    fraction: u64,
    /// When the last packet was sent.
    pub sent_ns: u64,
    /// Packets sent.
    pub sent: u64,
    /// Runs without a packet: none was due.
    pub idle: u64,
    /// How late the latest packet was sent, or was when it was left out, nanoseconds; of a
    /// flat-out run 0.
    pub lag_max_ns: u64,
    /// The number of the next packet within its flow.
    pub sequence: u64,
    /// The next packet's flow.
    pub flow: u32,
    /// Whether everything was sent, 0 or 1.
    pub is_over: u32,
}

/// What to do at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Send the next packet.
    Send,
    /// Nothing is due yet.
    Wait,
    /// Nothing is due any more.
    Over,
}

impl GeneratorState {
    /// What to do at `now`. A generator that is behind sends somewhat faster, not in one burst.
    #[inline(always)]
    pub fn pace(&mut self, config: &GeneratorConfig, now: u64) -> Pace {
        if self.start_ns == 0 {
            self.start_ns = now;
            self.due_ns = now;
        }
        // The clock of a flat-out run is coarse, and on another CPU it may be a tick older.
        let elapsed = now.saturating_sub(self.start_ns);
        if config.rate == 0 {
            return if elapsed < config.duration_ns { Pace::Send } else { Pace::Over };
        }
        if self.due_ns - self.start_ns >= config.duration_ns {
            return Pace::Over;
        }
        if elapsed >= config.duration_ns + LAG_MAX_NS {
            // What is left out at the end was held up like what is sent late. Once: the program
            // may be run again when it is over.
            if self.is_over == 0 {
                self.lag_max_ns = self.lag_max_ns.max(now.saturating_sub(self.due_ns));
            }
            return Pace::Over;
        }
        if now < self.due_ns || now < self.sent_ns + config.interval_ns / CATCH_UP {
            return Pace::Wait;
        }
        Pace::Send
    }

    /// Notes that the next packet was sent at `now`, and goes on to the one behind it.
    #[inline(always)]
    pub fn sent(&mut self, config: &GeneratorConfig, now: u64) {
        self.sent += 1;
        self.sent_ns = now;
        // Within a lean burst a packet may leave before it is due.
        let lag = now.saturating_sub(self.due_ns);
        if config.rate != 0 && lag > self.lag_max_ns {
            self.lag_max_ns = lag;
        }
        self.due_ns += config.interval_ns;
        self.fraction += config.remainder;
        if config.rate != 0 && self.fraction >= config.rate {
            self.fraction -= config.rate;
            self.due_ns += 1;
        }
        if now > self.due_ns + LAG_MAX_NS {
            self.due_ns = now - LAG_MAX_NS;
        }
        self.flow += 1;
        if self.flow >= config.flows {
            self.flow = 0;
            self.sequence += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some moment after the machine's start.
    const START: u64 = 1_000_000_000;

    fn config(rate: u64, duration_ns: u64) -> GeneratorConfig {
        let config = GeneratorConfig {
            rate: 0,
            duration_ns,
            interval_ns: 0,
            remainder: 0,
            flows: 3,
            frame_bytes: 0,
            lead: 0,
            payload_word: 0,
            checksum_word: 0,
            checksum_shift: 0,
            sequence_at: 0,
            reserved: 0,
        };
        config.with_rate(rate)
    }

    /// Calls the generator every `step_ns` to the end: packets sent.
    fn run(config: &GeneratorConfig, step_ns: u64) -> u64 {
        let mut state = GeneratorState::default();
        let mut now = START;
        loop {
            match state.pace(config, now) {
                Pace::Send => state.sent(config, now),
                Pace::Wait => now += step_ns,
                Pace::Over => return state.sent,
            }
        }
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_exact() {
        for rate in [1, 3, 7, 49_999, 333_333, 1_000_000] {
            assert_eq!(run(&config(rate, 1_000_000_000), 97), rate, "{rate}");
        }
    }

    #[test]
    fn behind_it_catches_up_somewhat_faster_and_leaves_out_what_is_too_old() {
        let config = config(1000, 1_000_000_000);
        let mut state = GeneratorState::default();
        assert_eq!(state.pace(&config, START), Pace::Send);
        state.sent(&config, START);
        let late = START + 10_000_000;
        assert_eq!(state.pace(&config, late), Pace::Send);
        state.sent(&config, late);
        assert_eq!(state.pace(&config, late + 249_999), Pace::Wait, "no burst");
        assert_eq!(state.pace(&config, late + 250_000), Pace::Send);
        let hang = START + 500_000_000;
        state.sent(&config, hang);
        assert_eq!(state.due_ns, hang - LAG_MAX_NS);
    }

    #[test]
    fn a_hold_up_at_the_end_is_a_lag() {
        let config = config(1000, 1_000_000_000);
        let mut state = GeneratorState::default();
        assert_eq!(state.pace(&config, START), Pace::Send);
        state.sent(&config, START);
        let end = START + 1_000_000_000 + LAG_MAX_NS;
        assert_eq!(state.pace(&config, end), Pace::Over);
        assert_eq!(state.lag_max_ns, end - START - 1_000_000);
        state.is_over = 1;
        assert_eq!(state.pace(&config, end + 5), Pace::Over);
        assert_eq!(state.lag_max_ns, end - START - 1_000_000, "a run that is over has no lag");
    }

    #[test]
    fn a_run_that_is_ended_early_has_no_lag() {
        let config = config(1000, 1_000_000_000);
        let mut state = GeneratorState::default();
        assert_eq!(state.pace(&config, START), Pace::Send);
        state.sent(&config, START);
        let stopped = GeneratorConfig { duration_ns: 0, ..config };
        assert_eq!(state.pace(&stopped, START + 2 * LAG_MAX_NS), Pace::Over);
        assert_eq!(state.lag_max_ns, 0);
    }

    #[test]
    fn flat_out_ends_with_the_time_and_flows_take_turns() {
        let config = config(0, 1000);
        let mut state = GeneratorState::default();
        let mut turns = [(0, 0); 5];
        for turn in &mut turns {
            assert_eq!(state.pace(&config, 7), Pace::Send);
            *turn = (state.flow, state.sequence);
            state.sent(&config, 7);
        }
        assert_eq!(turns, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]);
        assert_eq!(state.pace(&config, 1006), Pace::Send);
        assert_eq!(state.pace(&config, 1007), Pace::Over);
        assert_eq!(state.pace(&config, 3), Pace::Send, "a coarse clock of another CPU");
    }
}
