//! Headers on top of each other: links, difficulty, time.
//!
//! What a header says of its own work is checked where it is read ([`group`](super::group)); here stands what takes the
//! headers before it. Test networks that allow blocks of least difficulty have no rule that a client without all headers
//! can check.

use bitcoin::block::Header;
use bitcoin::params::Params;
use bitcoin::{BlockHash, CompactTarget, Network, Target};

/// How a header does not fit those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is not on top of the last one.
    Link,
    /// It is, and breaks a rule.
    Rule(String),
}

/// Blocks whose times bound the next one from below: their median.
const MEDIAN_BLOCKS: usize = 11;

/// What is known of the chain up to some block.
#[derive(Debug, Clone)]
pub(crate) struct HeaderChain {
    params: Params,
    last: Option<Last>,
    /// Time of the first block since the last change of difficulty.
    period: Option<u32>,
    /// Times of the last blocks, the latest one last.
    times: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    hash: BlockHash,
    bits: CompactTarget,
    time: u32,
}

impl HeaderChain {
    /// Of which nothing is known.
    pub(crate) fn new(network: Network) -> Self {
        Self {
            params: Params::new(network),
            last: None,
            period: None,
            times: Vec::new(),
        }
    }

    /// Takes the next header.
    ///
    /// # Errors
    /// How it does not fit; it is not taken then.
    pub(crate) fn take(&mut self, height: u32, header: &Header) -> Result<(), Broken> {
        let interval = self.params.difficulty_adjustment_interval() as u32;
        let begins_period = height.is_multiple_of(interval);
        if let Some(last) = &self.last {
            if header.prev_blockhash != last.hash {
                return Err(Broken::Link);
            }
            self.check_target(begins_period, last, header.bits)?;
        }
        if let Some(median) = self.median()
            && header.time <= median
        {
            return Err(Broken::Rule(format!(
                "its time, {}, is not after the median of the {MEDIAN_BLOCKS} blocks before it, {median}",
                header.time
            )));
        }
        if begins_period {
            self.period = Some(header.time);
        }
        if self.times.len() == MEDIAN_BLOCKS {
            self.times.remove(0);
        }
        self.times.push(header.time);
        self.last = Some(Last {
            hash: header.block_hash(),
            bits: header.bits,
            time: header.time,
        });
        Ok(())
    }

    fn check_target(
        &self,
        begins_period: bool,
        last: &Last,
        bits: CompactTarget,
    ) -> Result<(), Broken> {
        let params = &self.params;
        if params.allow_min_difficulty_blocks && !params.no_pow_retargeting {
            return Ok(());
        }
        let is_right = match (begins_period && !params.no_pow_retargeting, self.period) {
            (false, _) => bits == last.bits,
            (true, Some(first)) => {
                let timespan = u64::from(last.time.saturating_sub(first));
                bits == CompactTarget::from_next_work_required(last.bits, timespan, params)
            }
            (true, None) => {
                // As far as one change goes; the rounding of the compact form aside.
                let (old, new) = (Target::from(last.bits), Target::from(bits));
                let most = old.max_transition_threshold(params);
                let least = old.min_transition_threshold().to_compact_lossy();
                new <= most && new >= Target::from(least)
            }
        };
        match is_right {
            true => Ok(()),
            false => Err(Broken::Rule(format!(
                "its target, {:x}, is not what the blocks before it make of {:x}",
                bits, last.bits
            ))),
        }
    }

    fn median(&self) -> Option<u32> {
        let mut times = self.times.clone();
        times.sort_unstable();
        let is_known = times.len() == MEDIAN_BLOCKS;
        is_known.then(|| times.get(MEDIAN_BLOCKS / 2).copied())?
    }
}

#[cfg(test)]
mod tests;
