//! Rows of `watches` and `tokens`.

use bitcoin::OutPoint;

use super::event::{outpoint, push_outpoint};
use crate::process::Rule;
use crate::store::schema::{Fields, RowError};

/// Longest tag of a watch in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// Longest name of a token in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An outpoint, until it is spent.
    Outpoint,
    /// A process, followed along its tips.
    Process(Rule),
}

/// A watch, and where it is. Row of `watches`, 102 bytes and its tag: owner u32, subject 1 (0 outpoint, 1 process), state u32 and
/// carry u32 of the rule (0 for an outpoint), 1 if it is over, confirmations u32, unknown_below u32, steps u64, start 36, tip 36,
/// all numbers LE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRow {
    /// Number of the token that it belongs to; 0 for whoever needs none.
    pub owner: u32,
    /// What is watched.
    pub subject: Subject,
    /// The outpoint that was registered.
    pub start: OutPoint,
    /// The outpoint whose spend is waited for; once it is over, the one that was spent last.
    pub tip: OutPoint,
    /// Whether nothing more is waited for: the outpoint is spent, the process has ended.
    pub is_over: bool,
    /// After how many confirmations a spend is called deep; 0 for never.
    pub confirmations: u32,
    /// A spend of the tip in a block below this height may be unknown; from there on each is seen. 0 if all are.
    pub unknown_below: u32,
    /// Number of spends so far, as the chain is now.
    pub steps: u64,
    /// The caller's own name for it, at most [`TAG_BYTES_MAX`] bytes.
    pub tag: Vec<u8>,
}

impl WatchRow {
    /// Length of a row without its tag.
    pub const BYTES: usize = 4 + 1 + 4 + 4 + 1 + 4 + 4 + 8 + 36 + 36;

    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (subject, rule) = match self.subject {
            Subject::Outpoint => (0, Rule { state: 0, carry: 0 }),
            Subject::Process(rule) => (1, rule),
        };
        let mut bytes = Vec::with_capacity(Self::BYTES + self.tag.len());
        bytes.extend_from_slice(&self.owner.to_le_bytes());
        bytes.push(subject);
        bytes.extend_from_slice(&rule.state.to_le_bytes());
        bytes.extend_from_slice(&rule.carry.to_le_bytes());
        bytes.push(self.is_over.into());
        bytes.extend_from_slice(&self.confirmations.to_le_bytes());
        bytes.extend_from_slice(&self.unknown_below.to_le_bytes());
        bytes.extend_from_slice(&self.steps.to_le_bytes());
        push_outpoint(&mut bytes, &self.start);
        push_outpoint(&mut bytes, &self.tip);
        bytes.extend_from_slice(&self.tag);
        bytes
    }

    /// Reads a row.
    ///
    /// # Errors
    /// Bytes that are missing, a tag that is too long, numbers that stand for nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::over(bytes);
        let owner = u32::from_le_bytes(fields.take()?);
        let [subject] = fields.take()?;
        let rule = Rule {
            state: u32::from_le_bytes(fields.take()?),
            carry: u32::from_le_bytes(fields.take()?),
        };
        let subject = match subject {
            0 if rule == Rule::default() => Subject::Outpoint,
            1 => Subject::Process(rule),
            _ => return Err(RowError::Value("no such subject of a watch")),
        };
        let is_over = match fields.take()? {
            [0] => false,
            [1] => true,
            _ => return Err(RowError::Value("neither over nor not")),
        };
        let row = Self {
            owner,
            subject,
            is_over,
            confirmations: u32::from_le_bytes(fields.take()?),
            unknown_below: u32::from_le_bytes(fields.take()?),
            steps: u64::from_le_bytes(fields.take()?),
            start: outpoint(fields.take()?),
            tip: outpoint(fields.take()?),
            tag: fields.rest().to_vec(),
        };
        match row.tag.len() {
            0..=TAG_BYTES_MAX => Ok(row),
            _ => Err(RowError::Value("a tag that is too long")),
        }
    }
}

/// Key of `watch_starts`, 40 bytes: owner 4 BE, txid 32 (internal order), vout 4 BE.
pub type StartKey = [u8; 40];

/// The key of an owner's watch.
pub fn start_key(owner: u32, start: &OutPoint) -> StartKey {
    let mut key = [0; 40];
    key[..4].copy_from_slice(&owner.to_be_bytes());
    key[4..36].copy_from_slice(start.txid.as_ref());
    key[36..].copy_from_slice(&start.vout.to_be_bytes());
    key
}

/// What the bearer of a token may do. Row of `tokens`, 28 bytes and its name: number u32, owner u32 (ffffffff for the number),
/// scopes u64, most watches u64, most streams u32, all LE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its name for programs; above 0, never given to another.
    pub number: u32,
    /// Whose watches it is about, if not those of its own number.
    pub owner: Option<u32>,
    /// A bit for each thing that it allows.
    pub scopes: u64,
    /// How many watches its owner may have.
    pub watches_max: u64,
    /// How many streams it may have open at a time.
    pub streams_max: u32,
    /// For people, at most [`TOKEN_NAME_BYTES_MAX`] bytes.
    pub name: String,
}

/// In the place of an owner: none but the token itself.
const OWN: u32 = u32::MAX;

impl TokenRow {
    /// Whose watches it is about.
    pub fn owner(&self) -> u32 {
        self.owner.unwrap_or(self.number)
    }

    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28 + self.name.len());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.owner.unwrap_or(OWN).to_le_bytes());
        bytes.extend_from_slice(&self.scopes.to_le_bytes());
        bytes.extend_from_slice(&self.watches_max.to_le_bytes());
        bytes.extend_from_slice(&self.streams_max.to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Reads a row.
    ///
    /// # Errors
    /// Bytes that are missing, a name that is too long or no text, the number 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::over(bytes);
        let number = u32::from_le_bytes(fields.take()?);
        let owner = Some(u32::from_le_bytes(fields.take()?)).filter(|owner| *owner != OWN);
        let scopes = u64::from_le_bytes(fields.take()?);
        let watches_max = u64::from_le_bytes(fields.take()?);
        let streams_max = u32::from_le_bytes(fields.take()?);
        let name = std::str::from_utf8(fields.rest()).ok();
        let name = name.filter(|name| name.len() <= TOKEN_NAME_BYTES_MAX);
        if number == 0 {
            return Err(RowError::Value("the number of whoever needs no token"));
        }
        Ok(Self {
            number,
            owner,
            scopes,
            watches_max,
            streams_max,
            name: name.ok_or(RowError::Value("no name"))?.to_owned(),
        })
    }
}
