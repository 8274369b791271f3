//! A block as a scan takes it, its sections held against the counts of its header.

use bitcoin::BlockHash;

use super::super::OracleError;
use super::chunk::Section;
use super::group::{Raw, untrue};
use crate::filter::{self, spent_filter, spent_item};
use crate::wire::native::column::Column;
use crate::wire::native::section::{
    HeaderSection, Output, PREFIX_BYTES, Prefixes, Spends, read_outputs, read_prefixes, read_tweaks,
};

/// What a scan takes of a block.
#[derive(Debug, Clone)]
pub(crate) struct NativeBlock {
    pub(crate) height: u32,
    pub(crate) hash: BlockHash,
    pub(crate) header: HeaderSection,
    /// Compressed; whether they are points is not known yet. Empty where they were not asked for, as prefixes are.
    pub(crate) tweaks: Vec<[u8; 33]>,
    pub(crate) prefixes: Prefixes,
    /// The spent filter.
    pub(crate) spent: Vec<u8>,
    /// Sections that come with every block where no request shall depend on a match.
    pub(crate) outputs: Option<Vec<u8>>,
    /// As `outputs`.
    pub(crate) spends: Option<Vec<u8>>,
}

impl NativeBlock {
    /// Columns that a scan asks for: without `tweaks` for spends alone, with `follow_ups` those that it asks for on a match
    /// otherwise.
    pub(crate) fn columns(tweaks: bool, follow_ups: bool) -> Vec<Column> {
        let mut columns = vec![Column::Headers];
        if tweaks {
            columns.extend([Column::Tweaks, Column::Prefixes]);
        }
        columns.push(Column::Spent);
        if tweaks && follow_ups {
            columns.push(Column::Outputs);
        }
        if follow_ups {
            columns.push(Column::Spends);
        }
        columns
    }

    /// The block of these sections.
    ///
    /// # Errors
    /// [`OracleError::Untrue`] for a section that cannot be read, or has not what the header counts.
    pub(crate) fn read(url: &str, columns: &[Column], raw: Raw) -> Result<Self, OracleError> {
        let Raw {
            height,
            hash,
            header,
            sections,
        } = raw;
        let mut block = Self {
            height,
            hash,
            header,
            tweaks: Vec::new(),
            prefixes: Prefixes::default(),
            spent: Vec::new(),
            outputs: None,
            spends: None,
        };
        for (column, section) in columns.iter().skip(1).zip(sections) {
            let lie = |what: String| untrue(url, height, *column, what);
            let counted = |counts: &str, is: u64, says: u32| match is == u64::from(says) {
                true => Ok(()),
                false => Err(lie(format!("{is} {counts}, and {says} by its header"))),
            };
            match column {
                Column::Headers => {}
                Column::Tweaks => {
                    block.tweaks = read_tweaks(&section).map_err(|error| lie(error.to_string()))?;
                    counted("tweaks", block.tweaks.len() as u64, header.transactions)?;
                }
                Column::Prefixes => {
                    let prefixes =
                        read_prefixes(&section).map_err(|error| lie(error.to_string()))?;
                    let transactions = prefixes.ends.len() as u64;
                    counted("transactions", transactions, header.transactions)?;
                    counted("outputs", prefixes.keys.len() as u64, header.outputs)?;
                    block.prefixes = prefixes;
                }
                Column::Spent => {
                    let elements =
                        filter::element_count(&section).map_err(|error| lie(error.to_string()))?;
                    counted("spent outputs", elements, header.spends)?;
                    block.spent = section;
                }
                Column::Outputs => block.outputs = Some(section),
                Column::Spends => block.spends = Some(section),
                Column::NewUtxos | Column::Selected => {}
            }
        }
        Ok(block)
    }

    /// Bytes it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let column = |section: &Option<Vec<u8>>| section.as_ref().map_or(0, Vec::len);
        size_of::<Self>()
            + 33 * self.tweaks.len()
            + PREFIX_BYTES * self.prefixes.keys.len()
            + 4 * self.prefixes.ends.len()
            + self.spent.len()
            + column(&self.outputs)
            + column(&self.spends)
    }

    /// The outputs of each eligible transaction, by a section that has the hash of its header.
    ///
    /// # Errors
    /// [`OracleError::Untrue`] where they are not those of `prefixes`.
    pub(crate) fn read_outputs(
        &self,
        url: &str,
        section: &[u8],
    ) -> Result<Vec<(bitcoin::Txid, Vec<Output>)>, OracleError> {
        let lie = |what: String| untrue(url, self.height, Column::Outputs, what);
        let transactions = read_outputs(section).map_err(|error| lie(error.to_string()))?;
        let keys = transactions.iter().flat_map(|(_, outputs)| outputs);
        let keys = keys.map(|output| output.key.first_chunk().copied().unwrap_or_default());
        let mut end = 0;
        let ends = transactions.iter().map(|(_, outputs)| {
            end += outputs.len() as u32;
            end
        });
        if !ends.eq(self.prefixes.ends.iter().copied())
            || !keys.eq(self.prefixes.keys.iter().copied())
        {
            return Err(lie("outputs that are not those of prefixes".to_owned()));
        }
        Ok(transactions)
    }

    /// What was spent, by a section that has the hash of its header.
    ///
    /// # Errors
    /// [`OracleError::Untrue`] where it is not what the spent filter is made of, or what the header counts.
    pub(crate) fn read_spends(&self, section: &Section) -> Result<Spends, OracleError> {
        let lie = |what: String| untrue(&section.url, self.height, Column::Spends, what);
        let spends = Spends::decode(&section.bytes).map_err(|error| lie(error.to_string()))?;
        let items: Vec<[u8; 8]> = spends
            .spent
            .iter()
            .map(|spent| spent_item(&spent.outpoint, &self.hash))
            .collect();
        if spent_filter(&self.hash, &items) != self.spent {
            return Err(lie(
                "outpoints that are not those of the spent filter".to_owned()
            ));
        }
        if spends.states.len() != section.states as usize {
            let (is, says) = (spends.states.len(), section.states);
            return Err(lie(format!("{is} state ids, and {says} by its header")));
        }
        let knows_spenders = spends.spent.iter().all(|spent| spent.spender.is_some());
        for state in &spends.states {
            let mut spenders = spends.spent.iter().filter_map(|spent| spent.spender);
            if knows_spenders && !spenders.any(|(spender, _)| spender == state.transaction) {
                return Err(lie(format!(
                    "a state id of {}, which spends nothing",
                    state.txid
                )));
            }
        }
        Ok(spends)
    }
}
