//! Watches: what is registered, and where each of them is.

use bitcoin::OutPoint;
use serde::{Deserialize, Serialize};

use crate::process::Rule;
use crate::wire::text::parse;

/// Most watches of one request.
pub const REGISTRATIONS_MAX: usize = 10_000;
/// Longest body of a request that registers: as many as there may be, each with all fields and a tag that is escaped.
pub const REGISTRATION_BYTES_MAX: usize = 8 << 20;
/// Longest body of a request that removes, of as many numbers.
pub const REMOVAL_BYTES_MAX: usize = 256 << 10;
/// Longest tag in bytes of UTF-8.
pub const TAG_BYTES_MAX: usize = 64;
/// Most watches of one page.
pub const WATCHES_PAGE_MAX: usize = 1_000;

/// What is followed from an outpoint on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Follow {
    /// Nothing: the outpoint is watched until it is spent.
    Outpoint,
    /// The process of which it is a tip.
    Process(Rule),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Outpoint,
    #[default]
    Process,
}

impl Follow {
    fn split(self) -> (Kind, Option<u32>, Option<u32>) {
        match self {
            Self::Outpoint => (Kind::Outpoint, None, None),
            Self::Process(rule) => (Kind::Process, Some(rule.state), Some(rule.carry)),
        }
    }

    fn join(kind: Kind, state: Option<u32>, output: Option<u32>) -> Result<Self, String> {
        match (kind, state, output) {
            (Kind::Outpoint, None, None) => Ok(Self::Outpoint),
            (Kind::Outpoint, ..) => {
                Err("state and output are of processes: an outpoint has none".to_owned())
            }
            (Kind::Process, state, output) => Ok(Self::Process(Rule {
                state: state.unwrap_or_default(),
                carry: output.unwrap_or_default(),
            })),
        }
    }
}

/// A watch to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where it starts.
    pub outpoint: OutPoint,
    /// What is followed.
    pub follow: Follow,
    /// Height of the block that created the outpoint, if the caller knows.
    pub created: Option<u32>,
    /// After how many confirmations a spend is called deep; 0 for never.
    pub confirmations: u32,
    /// The caller's own name for it, [`TAG_BYTES_MAX`] at most; empty for none.
    pub tag: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistrationBody {
    outpoint: OutPoint,
    #[serde(default)]
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<u32>,
    #[serde(default)]
    confirmations: u32,
    #[serde(default)]
    tag: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistrationsBody {
    watches: Vec<RegistrationBody>,
}

impl Registration {
    /// Writes the body of `POST /spindex/v1/watches`.
    ///
    /// # Errors
    /// None at present.
    pub fn encode_all(registrations: &[Self]) -> Result<Vec<u8>, String> {
        let bodies = registrations.iter().map(|registration| {
            let (kind, state, output) = registration.follow.split();
            RegistrationBody {
                outpoint: registration.outpoint,
                kind,
                state,
                output,
                created: registration.created,
                confirmations: registration.confirmations,
                tag: registration.tag.clone(),
            }
        });
        let body = RegistrationsBody {
            watches: bodies.collect(),
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads the body, of [`REGISTRATION_BYTES_MAX`] at most.
    ///
    /// # Errors
    /// What is wrong with it: more than [`REGISTRATIONS_MAX`] watches, a tag that is too long, a field that there is not.
    pub fn decode_all(body: &[u8]) -> Result<Vec<Self>, String> {
        if body.len() > REGISTRATION_BYTES_MAX {
            return Err(format!("more than {REGISTRATION_BYTES_MAX} bytes"));
        }
        let body: RegistrationsBody = parse(body)?;
        let found = body.watches.len();
        if found > REGISTRATIONS_MAX {
            return Err(format!(
                "{found} watches: register {REGISTRATIONS_MAX} at most at a time"
            ));
        }
        let registrations = body.watches.into_iter().map(|body| {
            let RegistrationBody { outpoint, tag, .. } = body;
            if tag.len() > TAG_BYTES_MAX {
                return Err(format!(
                    "the tag of {outpoint} has {} bytes: {TAG_BYTES_MAX} are allowed",
                    tag.len()
                ));
            }
            let follow = Follow::join(body.kind, body.state, body.output);
            Ok(Self {
                outpoint,
                follow: follow.map_err(|text| format!("{outpoint}: {text}"))?,
                created: body.created,
                confirmations: body.confirmations,
                tag,
            })
        });
        registrations.collect()
    }
}

/// What became of a [`Registration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Number of the watch.
    pub watch: u64,
    /// Whether it is new: otherwise the same one was there already.
    pub is_new: bool,
}

#[derive(Serialize, Deserialize)]
struct RegisteredBody {
    watch: u64,
    new: bool,
}

#[derive(Serialize, Deserialize)]
struct AllRegisteredBody {
    watches: Vec<RegisteredBody>,
}

impl Registered {
    /// Writes the answer to `POST /spindex/v1/watches`, in the order of the registrations.
    ///
    /// # Errors
    /// None at present.
    pub fn encode_all(registered: &[Self]) -> Result<Vec<u8>, String> {
        let bodies = registered.iter().map(|registered| RegisteredBody {
            watch: registered.watch,
            new: registered.is_new,
        });
        let body = AllRegisteredBody {
            watches: bodies.collect(),
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads the answer to so many registrations.
    ///
    /// # Errors
    /// What is wrong with the body, another number of answers among it.
    pub fn decode_all(body: &[u8], registrations: usize) -> Result<Vec<Self>, String> {
        let body: AllRegisteredBody = parse(body)?;
        let found = body.watches.len();
        if found != registrations {
            return Err(format!("{found} answers to {registrations} registrations"));
        }
        let registered = body.watches.into_iter().map(|body| Self {
            watch: body.watch,
            is_new: body.new,
        });
        Ok(registered.collect())
    }
}

/// A watch, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Its number.
    pub watch: u64,
    /// Where it started.
    pub outpoint: OutPoint,
    /// What is followed.
    pub follow: Follow,
    /// The outpoint whose spend is waited for; once it is over, the one that was spent last.
    pub tip: OutPoint,
    /// Whether nothing more is waited for: the outpoint is spent, the process has ended.
    pub is_over: bool,
    /// Number of spends so far, as the chain is now.
    pub steps: u64,
    /// A spend of the tip in a block below this height may be unknown; `None` if all are known.
    pub unknown_below: Option<u32>,
    /// After how many confirmations a spend is called deep; 0 for never.
    pub confirmations: u32,
    /// The caller's own name for it; empty for none.
    pub tag: String,
}

#[derive(Serialize, Deserialize)]
struct WatchBody {
    watch: u64,
    outpoint: OutPoint,
    kind: Kind,
    state: Option<u32>,
    output: Option<u32>,
    tip: OutPoint,
    over: bool,
    steps: u64,
    unknown_below: Option<u32>,
    confirmations: u32,
    tag: String,
}

impl From<&Watch> for WatchBody {
    fn from(watch: &Watch) -> Self {
        let (kind, state, output) = watch.follow.split();
        Self {
            watch: watch.watch,
            outpoint: watch.outpoint,
            kind,
            state,
            output,
            tip: watch.tip,
            over: watch.is_over,
            steps: watch.steps,
            unknown_below: watch.unknown_below,
            confirmations: watch.confirmations,
            tag: watch.tag.clone(),
        }
    }
}

impl TryFrom<WatchBody> for Watch {
    type Error = String;

    fn try_from(body: WatchBody) -> Result<Self, String> {
        Ok(Self {
            watch: body.watch,
            outpoint: body.outpoint,
            follow: Follow::join(body.kind, body.state, body.output)?,
            tip: body.tip,
            is_over: body.over,
            steps: body.steps,
            unknown_below: body.unknown_below,
            confirmations: body.confirmations,
            tag: body.tag,
        })
    }
}

impl Watch {
    /// Writes the answer of `GET /spindex/v1/watches/{watch}`.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&WatchBody::from(self)).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        parse::<WatchBody>(body)?.try_into()
    }
}

/// `GET /spindex/v1/watches?from=&limit=`: watches, ascending by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchPage {
    /// The watches.
    pub watches: Vec<Watch>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WatchPageBody {
    watches: Vec<WatchBody>,
    next: Option<u64>,
}

impl WatchPage {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = WatchPageBody {
            watches: self.watches.iter().map(WatchBody::from).collect(),
            next: self.next,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body: numbers that do not ascend, a next page that starts before this one ends.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let body: WatchPageBody = parse(body)?;
        let watches = body.watches.into_iter().map(Watch::try_from);
        let watches = watches.collect::<Result<Vec<_>, _>>()?;
        let ascends = watches.is_sorted_by(|a, b| a.watch < b.watch);
        let last = watches.last().map(|watch| watch.watch);
        if !ascends || body.next.is_some_and(|next| last >= Some(next)) {
            return Err("watches that do not ascend by number".to_owned());
        }
        let next = body.next;
        Ok(Self { watches, next })
    }
}

/// `DELETE /spindex/v1/watches`: which are to be removed, and in the answer those of them that were there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// Numbers of watches.
    pub watches: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemovalBody {
    watches: Vec<u64>,
}

impl Removal {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let watches = self.watches.clone();
        serde_json::to_vec(&RemovalBody { watches }).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body, more than [`REGISTRATIONS_MAX`] numbers among it.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let RemovalBody { watches } = parse(body)?;
        match watches.len() {
            0..=REGISTRATIONS_MAX => Ok(Self { watches }),
            found => Err(format!(
                "{found} watches: remove {REGISTRATIONS_MAX} at most at a time"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
