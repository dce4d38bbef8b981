//! The programs side by side: proves what each does to a frame, and takes their times in turn.
//! Does not sum anything up.

use std::fmt;

use anyhow::Context as _;
use aya::programs::{ProgramFd, Xdp};
use relay_bench_ebpf::program;
use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;

use super::path::{Kind, Path};
use super::relay::Relay;
use super::stage::{self, Run, Stage};
use super::yardstick::Yardstick;

/// XDP's action numbers.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// A program to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    /// Turnpike's.
    Relay,
    /// The C relay.
    Yardstick,
    /// One that does nothing.
    Empty,
    /// One that exchanges MAC addresses.
    Reflector,
}

impl Subject {
    /// All, in the order they take turns in.
    pub(super) const ALL: [Self; 4] = [Self::Relay, Self::Yardstick, Self::Empty, Self::Reflector];

    fn name(self) -> &'static str {
        match self {
            Self::Relay => "Turnpike's program",
            Self::Yardstick => "the C yardstick",
            Self::Empty => "the empty program",
            Self::Reflector => "the reflector",
        }
    }
}

/// What makes a measure worthless: a program did not do what is being timed.
#[derive(Debug)]
pub(super) struct Void {
    subject: Subject,
    path: &'static str,
    wrong: Wrong,
}

#[derive(Debug)]
enum Wrong {
    Action { expected: u32, found: u32 },
    Bytes { expected: Vec<u8>, found: Vec<u8> },
    Count { reason: Reason, expected: u64, found: u64 },
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no figures: on the path {}, {} ", self.path, self.subject.name())?;
        match &self.wrong {
            Wrong::Action { expected, found } => {
                write!(f, "gave {} in place of {}", action(*found), action(*expected))
            }
            Wrong::Bytes { expected, found } => write!(
                f,
                "wrote another frame than it should have, from byte {} on\nshould {expected:02x?}\n\
                 is     {found:02x?}",
                expected.iter().zip(found).take_while(|(a, b)| a == b).count()
            ),
            Wrong::Count { reason, expected, found } => write!(
                f,
                "counted {found} of {expected} packets as {}: the others went another way",
                reason.name()
            ),
        }
    }
}

impl std::error::Error for Void {}

fn action(number: u32) -> String {
    let names = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
    let name = usize::try_from(number).ok().and_then(|number| names.get(number));
    name.map_or_else(|| format!("action {number}"), ToString::to_string)
}

/// All programs, loaded, with their maps filled.
pub(super) struct Lab {
    stage: Stage,
    relay: Relay,
    yardstick: Option<Yardstick>,
}

impl Lab {
    pub(super) fn new(stage: Stage, relay: Relay, yardstick: Option<Yardstick>) -> Self {
        Self { stage, relay, yardstick }
    }

    /// The programs that are here and go this way at all, in turn: the yardstick knows only the
    /// straight path on IPv4, and what it passes is no measure of anything.
    pub(super) fn subjects(&self, path: &Path) -> Vec<Subject> {
        let yardstick = self.yardstick.is_some() && path.kind == Kind::Straight(Family::V4);
        let is_here = |subject: &Subject| yardstick || *subject != Subject::Yardstick;
        Subject::ALL.into_iter().filter(is_here).collect()
    }

    fn program(&self, subject: Subject) -> anyhow::Result<&Xdp> {
        match subject {
            Subject::Relay => self.relay.program(),
            Subject::Yardstick => self.yardstick.as_ref().context("no yardstick")?.program(),
            Subject::Empty => self.stage.program(program::EMPTY),
            Subject::Reflector => self.stage.program(program::REFLECTOR),
        }
    }

    fn aim(&mut self, subject: Subject) -> anyhow::Result<()> {
        let program: ProgramFd = self.program(subject)?.fd()?.try_clone()?;
        self.stage.aim(&program)
    }

    /// What a subject should make of a path's frame; what is chance is as in what was `found`.
    fn expected(subject: Subject, path: &Path, found: &[u8]) -> (u32, Vec<u8>) {
        match subject {
            Subject::Relay | Subject::Yardstick if path.is_relayed() => (XDP_TX, path.out(found)),
            Subject::Relay | Subject::Yardstick | Subject::Empty => (XDP_PASS, path.frame.clone()),
            Subject::Reflector => {
                let (dst, rest) = path.frame.split_at(6);
                let (src, rest) = rest.split_at(6);
                (XDP_TX, [src, dst, rest].concat())
            }
        }
    }

    /// Puts one frame through a subject and compares what comes out, byte for byte.
    ///
    /// # Errors
    /// [`Void`], or the kernel refused the run.
    pub(super) fn prove(&mut self, subject: Subject, path: &Path) -> anyhow::Result<()> {
        self.aim(subject)?;
        self.stage.set(path.template())?;
        let (run, found) = self.stage.once(&path.frame)?;
        let (action, expected) = Self::expected(subject, path, &found);
        expect_action(subject, path, action, &run)?;
        if found != expected {
            let wrong = Wrong::Bytes { expected, found };
            return Err(Void { subject, path: path.name, wrong }.into());
        }
        Ok(())
    }

    /// Times `repeat` packets of a path, each from a binding that `seed` picks; nanoseconds of
    /// stage and subject together.
    ///
    /// # Errors
    /// [`Void`] when not every one of them went that way, or the kernel refused the run.
    pub(super) fn time(
        &mut self,
        subject: Subject,
        path: &Path,
        repeat: u32,
        seed: u32,
    ) -> anyhow::Result<u32> {
        self.aim(subject)?;
        self.stage.set(path.picking_template(seed))?;
        let before = self.packets(subject, path.reason)?;
        let run = self.stage.time(&path.frame, repeat)?;
        let after = self.packets(subject, path.reason)?;
        expect_action(subject, path, Self::expected(subject, path, &[]).0, &run)?;
        let expected = u64::from(repeat);
        if let (Some(before), Some(after)) = (before, after)
            && after - before != expected
        {
            let wrong = Wrong::Count { reason: path.reason, expected, found: after - before };
            return Err(Void { subject, path: path.name, wrong }.into());
        }
        Ok(run.ns)
    }

    /// Times a subject that needs no stage, because its output is its input again.
    ///
    /// # Errors
    /// As [`Lab::time`].
    pub(super) fn time_alone(
        &self,
        subject: Subject,
        path: &Path,
        repeat: u32,
    ) -> anyhow::Result<u32> {
        let run = stage::time(self.program(subject)?, &path.frame, repeat)?;
        expect_action(subject, path, Self::expected(subject, path, &[]).0, &run)?;
        Ok(run.ns)
    }

    /// A subject's own count of packets that went a way, if it counts.
    fn packets(&self, subject: Subject, reason: Reason) -> anyhow::Result<Option<u64>> {
        let direction = match reason {
            Reason::ClientToPeer => Some(Direction::ClientToPeer),
            Reason::PeerToClient => Some(Direction::PeerToClient),
            _ => None,
        };
        match (subject, &self.yardstick, direction) {
            (Subject::Relay, ..) => self.relay.packets(reason).map(Some),
            (Subject::Yardstick, Some(yardstick), Some(direction)) => {
                yardstick.packets(direction).map(Some)
            }
            (Subject::Yardstick | Subject::Empty | Subject::Reflector, ..) => Ok(None),
        }
    }
}

fn expect_action(subject: Subject, path: &Path, expected: u32, run: &Run) -> Result<(), Void> {
    let found = run.action;
    if found == expected {
        return Ok(());
    }
    Err(Void { subject, path: path.name, wrong: Wrong::Action { expected, found } })
}
