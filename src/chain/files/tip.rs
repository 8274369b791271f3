//! The tip where no node names it: the last block of the heaviest branch that the node has connected. And what speaks
//! against taking it for the chain's end: files that prove that there is, or was, more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::AtomicBool;

use super::folder::Folder;
use super::headers::Node;
use super::listing::Unread;
use crate::BlockId;
use crate::chain::ChainError;

/// Blocks that the node connects in one go at most stay far below this; a tip without undo record is looked for as deep.
const LONGEST_UNCONNECTED: usize = 10_000;

/// Most missing files that a text names.
const NAMED_LIMIT: usize = 3;

/// Why the files are not all of the chain.
#[derive(Debug)]
pub(super) enum Trouble {
    /// They cannot be read.
    Failed(ChainError),
    /// Something that has to be there is not; whether a node that is at work may yet write it.
    Lacks { what: String, passes: bool },
}

impl From<ChainError> for Trouble {
    fn from(error: ChainError) -> Self {
        Self::Failed(error)
    }
}

impl Trouble {
    fn passing(what: String) -> Self {
        Self::Lacks { what, passes: true }
    }

    fn lasting(what: String) -> Self {
        Self::Lacks {
            what,
            passes: false,
        }
    }

    /// What to say where nobody but the files is there to ask.
    pub(super) fn into_error(self, folder: &Folder) -> ChainError {
        match self {
            Self::Failed(error) => error,
            Self::Lacks { what, passes } => {
                let text = format!(
                    "{what}; restore the files (each blk*.dat and its rev*.dat), or give the node's address (--node-url), which has these blocks"
                );
                match passes {
                    true => ChainError::NotAvailable(text),
                    false => folder.refused(text),
                }
            }
        }
    }

    /// What to say where a node serves what is missing.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Failed(error) => error.to_string(),
            Self::Lacks { what, .. } => what,
        }
    }
}

/// What the files say of the chain's end.
struct Ends {
    /// The end of the branch with the most work.
    best: Option<Node>,
    /// Its blocks down to the first that is connected, downwards.
    pending: Vec<Node>,
    /// The heaviest end that is connected.
    tip: Option<Node>,
}

impl Folder {
    /// The last connected block of the heaviest branch that has one; from then on the chosen chain is its branch.
    ///
    /// # Errors
    /// The files cannot be read, or prove that they are not all.
    pub(super) fn connected_tip(&self, stopped: &AtomicBool) -> Result<BlockId, Trouble> {
        self.refresh(stopped)?;
        let mut found = self.find_tip();
        if !matches!(found, Ok((_, true))) {
            let best = self.read_state().best();
            if let Some((_, number)) = best {
                self.recheck_undo_file(number);
            }
            // What was read first may be older than what was read later.
            if found.is_err() {
                self.refresh(stopped)?;
            }
            found = self.find_tip();
        }
        let (tip, _) = found?;
        let mut state = self.write_state();
        state.tip_is_known = true;
        state.index.choose_chain(tip);
        let id = state.index.id(tip);
        id.ok_or_else(|| Trouble::passing(format!("{} has no tip", self.path().display())))
    }

    /// The tip, and whether no branch has more work.
    fn find_tip(&self) -> Result<(Node, bool), Trouble> {
        if let Some(unread) = self.unread_file() {
            return Err(unread);
        }
        let ends = self.ends()?;
        if let Some(hole) = self.hole(ends.tip)? {
            return Err(hole);
        }
        if let Some(missing) = self.missing_undo(&ends.pending)? {
            return Err(missing);
        }
        if let Some(missing) = self.blocks_missing_at_the_end(ends.tip)? {
            return Err(missing);
        }
        if let Some(dangling) = self.dangling_file(ends.tip) {
            return Err(dangling);
        }
        let Some(tip) = ends.tip else {
            return Err(Trouble::passing(format!(
                "{} has no undo records of the last blocks; is the node still starting, or the folder damaged?",
                self.path().display()
            )));
        };
        let lowest = ends.pending.last().filter(|_| ends.pending.len() > 1);
        let lowest = lowest.and_then(|node| self.read_state().index.id(*node));
        if let Some(lowest) = lowest {
            let text = format!(
                "{} have blocks from {lowest} on that the node has not connected: it rejected them, or has not come to them yet",
                self.path().display()
            );
            if self.is_news(&text) {
                tracing::info!("{text}");
            }
        }
        Ok((tip, ends.best == Some(tip)))
    }

    /// Whether the genesis block or one with an undo record.
    fn is_end(&self, node: Node, looked_at: &mut BTreeSet<u32>) -> Result<bool, ChainError> {
        let id = self.read_state().index.id(node);
        Ok(id.is_some_and(|id| id.height == 0) || self.is_connected(node, looked_at)?)
    }

    fn ends(&self) -> Result<Ends, ChainError> {
        let mut looked_at = BTreeSet::new();
        let best = self.read_state().index.best();
        let mut ends = Ends {
            best,
            pending: Vec::new(),
            tip: None,
        };
        let mut node = best;
        while let Some(at) = node {
            if self.is_end(at, &mut looked_at)? {
                ends.tip = Some(at);
                break;
            }
            ends.pending.push(at);
            if ends.pending.len() == LONGEST_UNCONNECTED {
                break;
            }
            node = self.read_state().index.parent(at);
        }
        if best == ends.tip {
            return Ok(ends);
        }
        // The node has connected another branch, and may never connect this one.
        let stronger = self.read_state().index.stronger_than(ends.tip);
        for node in stronger.into_iter().take(LONGEST_UNCONNECTED) {
            if self.is_end(node, &mut looked_at)? {
                ends.tip = Some(node);
                break;
            }
        }
        Ok(ends)
    }

    /// A file that is there and cannot be read: nobody knows what is in it.
    fn unread_file(&self) -> Option<Trouble> {
        let state = self.read_state();
        state.unread.values().find_map(|unread| match unread {
            Unread::Failed(error) => Some(Trouble::Failed(error.clone())),
            Unread::Dangling(_) | Unread::NoFile(_) => None,
        })
    }

    /// A link to a file that is not there. Of anything else that is no file nobody says that it should have been one.
    fn dangling_file(&self, tip: Option<Node>) -> Option<Trouble> {
        let state = self.read_state();
        let tip = tip.and_then(|tip| state.index.id(tip));
        let first = tip.map_or(0, |tip| tip.height.saturating_add(1));
        state.unread.values().find_map(|unread| match unread {
            Unread::Dangling(text) => Some(Trouble::lasting(format!(
                "{text}: the blocks from height {first} on cannot be read"
            ))),
            Unread::Failed(_) | Unread::NoFile(_) => None,
        })
    }

    /// Blocks above the tip that the node has connected, though what they build on is in no file.
    fn hole(&self, tip: Option<Node>) -> Result<Option<Trouble>, ChainError> {
        let (loose, tip, gaps) = {
            let state = self.read_state();
            let loose = state.index.loose();
            if loose.is_empty() {
                return Ok(None);
            }
            let tip = tip.and_then(|tip| state.index.id(tip));
            (loose, tip, state.gaps())
        };
        let tip_height = tip.map_or(0, |tip| tip.height);
        let mut looked_at = BTreeSet::new();
        for (root, claimed) in loose {
            let above: Vec<(Node, u32)> = {
                let state = self.read_state();
                let above = state.index.above(root);
                let ahead = above.filter(|(_, distance)| {
                    claimed.is_none_or(|height| height.saturating_add(*distance) > tip_height)
                });
                ahead.take(LONGEST_UNCONNECTED).collect()
            };
            // Where files are missing, the undo records may be too.
            let mut proven = !above.is_empty() && !gaps.is_empty();
            for (node, _) in above {
                proven = proven || self.is_connected(node, &mut looked_at)?;
                if proven {
                    return Ok(Some(self.hole_below(root, claimed, tip, &gaps)));
                }
            }
        }
        Ok(None)
    }

    fn hole_below(
        &self,
        root: Node,
        claimed: Option<u32>,
        tip: Option<BlockId>,
        gaps: &[u32],
    ) -> Trouble {
        let state = self.read_state();
        let block = state.index.block(root);
        let number = block.map_or(0, |block| block.location.file);
        let hash = block.map_or_else(String::new, |block| block.hash.to_string());
        let height = claimed.map_or_else(String::new, |height| format!("{height} "));
        let tip_file = tip.and_then(|tip| {
            let node = state.index.find(&tip.hash)?;
            Some(state.index.block(node)?.location.file)
        });
        let first = tip.map_or(0, |tip| tip.height.saturating_add(1));
        let mut named: Vec<String> = gaps
            .iter()
            .take(NAMED_LIMIT)
            .map(|gap| self.gap_text(*gap, &state.unread, state.is_empty(*gap)))
            .collect();
        if gaps.len() > NAMED_LIMIT {
            named.push("and more".into());
        }
        if named.is_empty() {
            let file = self.block_path(tip_file.unwrap_or(number));
            named.push(format!("{} is damaged or cut short", file.display()));
        }
        let what = format!(
            "{}: the blocks from height {first} on cannot be read, of which block {height}{hash} in {} is one of the next",
            named.join(", "),
            self.block_path(number).display()
        );
        // In the newest file they may be leftovers of a node that was killed and is writing anew.
        let newest = state.newest();
        match gaps.is_empty() && tip_file == newest && Some(number) == newest {
            true => Trouble::passing(what),
            false => Trouble::lasting(what),
        }
    }

    fn gap_text(&self, gap: u32, unread: &BTreeMap<u32, Unread>, is_empty: bool) -> String {
        let path = self.block_path(gap);
        match unread.get(&gap) {
            Some(unread) => unread.text(),
            None if is_empty => format!("{} has no blocks", path.display()),
            None => format!("{} is missing", path.display()),
        }
    }

    /// A `rev` file without any record, or cut short, though there are blocks in its `blk` file that only wait for theirs.
    fn missing_undo(&self, pending: &[Node]) -> Result<Option<Trouble>, ChainError> {
        let mut lowest: BTreeMap<u32, (BlockId, usize)> = BTreeMap::new();
        {
            let state = self.read_state();
            for node in pending {
                if let (Some(block), Some(id)) = (state.index.block(*node), state.index.id(*node)) {
                    let entry = lowest.entry(block.location.file).or_insert((id, 0));
                    *entry = (id, entry.1 + 1);
                }
            }
        }
        for (number, (id, blocks)) in lowest {
            let path = self.undo_path(number);
            let (is_empty, is_cut) = self.undo_file(
                number,
                |undo| undo.is_empty(),
                |undo| (undo.is_empty(), undo.is_cut()),
            )?;
            // The last record may be on its way.
            let is_cut = is_cut && blocks > 1;
            if !is_empty && !is_cut {
                continue;
            }
            let state = match (is_empty, fs::metadata(&path).is_ok()) {
                (false, _) => "is cut short",
                (true, true) => "has no records",
                (true, false) => "is missing",
            };
            let what = format!(
                "{} {state}: what block {id} and those after it spend cannot be read",
                path.display()
            );
            // With the first block that it connects a node writes the first record.
            return Ok(Some(match self.read_state().newest_undo {
                Some(_) => Trouble::passing(what),
                None => Trouble::lasting(what),
            }));
        }
        Ok(None)
    }

    /// Undo records of blocks that are in no file: a `blk` file is missing at the end, is empty, or ends within a block.
    fn blocks_missing_at_the_end(&self, tip: Option<Node>) -> Result<Option<Trouble>, ChainError> {
        let (first, newest, beyond, is_suspect) = {
            let state = self.read_state();
            let tip = tip.and_then(|tip| state.index.id(tip));
            let Some(newest) = state.newest() else {
                return Ok(None);
            };
            let beyond = state.newest_undo.filter(|undo| *undo > newest);
            (
                tip.map_or(0, |tip| tip.height.saturating_add(1)),
                newest,
                beyond.map(|undo| (undo, self.gap_text(undo, &state.unread, false))),
                state.is_cut(newest) || state.is_empty(newest),
            )
        };
        let lacks = |what: &str, undo: u32| {
            Trouble::lasting(format!(
                "{what}: the blocks from height {first} on cannot be read, though {} is there",
                self.undo_path(undo).display()
            ))
        };
        if let Some((undo, what)) = beyond {
            return Ok(Some(lacks(&what, undo)));
        }
        if !is_suspect {
            return Ok(None);
        }
        let strays = self.undo_file(newest, |_| true, |undo| undo.ends_with_strays())?;
        let path = self.block_path(newest);
        let what = format!("{} is empty or cut short", path.display());
        Ok(strays.then(|| lacks(&what, newest)))
    }

    /// A `rev` file that is not there, though the chosen chain has blocks in its `blk` file and goes on after them.
    pub(super) fn missing_undo_file(&self) -> Option<Trouble> {
        let lowest = self.read_state().lowest_in_files();
        lowest.into_iter().find_map(|(number, id)| {
            let path = self.undo_path(number);
            let what = match fs::metadata(&path) {
                Ok(meta) if !meta.is_file() => "is no regular file",
                Ok(meta) if meta.len() == 0 => "is empty",
                Ok(_) => return None,
                Err(_) if fs::symlink_metadata(&path).is_ok() => "is a link to nowhere",
                Err(_) => "is missing",
            };
            // Pruned a moment ago; or its blocks are in another file too, which has what they spend.
            let node = self.read_state().index.find(&id.hash);
            let places = node.map_or(0, |node| self.read_state().index.locations(node).len());
            if places > 1 || fs::metadata(self.block_path(number)).is_err() {
                return None;
            }
            Some(Trouble::lasting(format!(
                "{} {what}: what block {id} and those after it spend cannot be read",
                path.display()
            )))
        })
    }

    /// The lowest height from which on the chosen chain is complete, with what the blocks spend: those that a pruned node
    /// fetched again lack it.
    pub(super) fn first_served(&self) -> Result<Option<u32>, ChainError> {
        let first = self.read_state().first_complete();
        let Some(first) = first.filter(|first| *first > 0) else {
            return Ok(first);
        };
        let mut looked_at = BTreeSet::new();
        for height in first..=first.saturating_add(LONGEST_UNCONNECTED as u32) {
            let node = self.read_state().index.on_chain(height);
            let Some(node) = node else {
                break;
            };
            if self.is_connected(node, &mut looked_at)? {
                return Ok(Some(height));
            }
        }
        Ok(Some(first))
    }
}
