//! Is an index right, and if not, what then?
//!
//! [`check_self`] finds what contradicts itself ([`own`]); what was wrong from the start only the source can tell
//! ([`check_against_source`], in [`source`]), or another server ([`compare`], in [`server`]), or a head that somebody has
//! published ([`check_head`], in [`heads`]). [`mod@repair`] mends it.

pub mod heads;
pub mod own;
pub mod repair;
pub mod server;
pub mod source;

use serde::Serialize;

use crate::store::{Snapshot, StoreError, TweakForm, WrongRow};
pub use heads::{HeadCheck, PublishedHead, check_head};
pub use own::{SelfCheck, check_self};
pub use repair::{Damage, Repair, RepairError, Repaired, repair};
pub use server::{
    ColumnsComparison, CompareError, Comparison, Difference, HeadsComparison, LinkPair, Parted,
    PartedColumns, compare,
};
pub use source::{SourceCheck, check_against_source};

/// Something that is wrong with an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Table of the row; `file` for the file as a whole.
    pub table: &'static str,
    /// The block it belongs to, where that is known.
    pub height: Option<u32>,
    /// Key of the row, or position of the item.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether the block's rows may have to come from the node again. Otherwise what is wrong follows from rows that
    /// nothing speaks against.
    pub needs_node: bool,
}

impl From<WrongRow> for Finding {
    fn from(row: WrongRow) -> Self {
        Self {
            table: row.table,
            height: row.height,
            key: row.key,
            reason: row.reason,
            needs_node: !row.follows,
        }
    }
}

impl Finding {
    /// A file that cannot be opened or read, `None` for errors that say nothing of the file: it is in use, say.
    pub fn of_error(error: &StoreError) -> Option<Self> {
        let (table, key, reason) = match error {
            StoreError::Corrupt {
                table, key, reason, ..
            } => (*table, key.clone(), reason.clone()),
            StoreError::Damaged { reason, .. } | StoreError::NotAnIndex { reason, .. } => {
                ("file", "all".to_owned(), reason.clone())
            }
            // What is damaged in an older format cannot be migrated, and is to be repaired as it is.
            StoreError::MigrationFailed { source, .. } => return Self::of_error(source),
            _ => return None,
        };
        Some(Self {
            table,
            height: None,
            key,
            reason,
            needs_node: true,
        })
    }
}

fn tweak_table(snapshot: &Snapshot) -> &'static str {
    match snapshot.tweak_form() {
        TweakForm::Compressed => "compressed",
        TweakForm::Point | TweakForm::PointAndMultiple => "tweaks",
    }
}
