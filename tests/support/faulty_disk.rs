//! A disk in memory that fills up, fails or loses power at a given call.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::secp256k1::rand::{Rng, rngs::StdRng, seq::SliceRandom};
use redb::StorageBackend;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accident {
    /// Writing and growing fail from some call on with this error; the rest works.
    Full(io::ErrorKind),
    /// One call fails, as with a bad sector or a flaky network disk; later ones would work.
    Hiccup,
    /// Power is lost: nothing works from some call on, and of what was written since the last sync anything
    /// may be missing.
    PowerLoss,
    /// The same, and of a write that did not get lost perhaps only a part is there.
    TornWrites,
}

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// What became of a write that no sync has made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Whole,
    /// As many bytes as came before the loss.
    Prefix,
    /// Any of its sectors. Where writes overlap, that is also what their order being changed leaves.
    Sectors,
}

impl Fate {
    pub(crate) fn is_torn(self) -> bool {
        matches!(self, Self::Prefix | Self::Sectors)
    }

    fn of_a_torn_write(rng: &mut StdRng) -> Self {
        *[Self::Prefix, Self::Sectors].choose(rng).expect("two")
    }

    /// Of writes that get lost or not, but never in part.
    pub(crate) fn of_whole_writes(writes: usize, rng: &mut StdRng) -> Vec<Self> {
        let keep = [0.0, 0.5, 0.9, 1.0][rng.gen_range(0..4)];
        let is_kept = std::iter::repeat_with(|| rng.gen_bool(keep));
        let fates = is_kept.map(|is_kept| if is_kept { Self::Whole } else { Self::Lost });
        fates.take(writes).collect()
    }

    /// Of writes at least one of which is torn: all of them at random, or one alone among many that are as they should
    /// be, or one that came before all others.
    pub(crate) fn of_torn_writes(writes: usize, rng: &mut StdRng) -> Vec<Self> {
        let mut fates = match rng.gen_range(0..3) {
            0 => Self::of_whole_writes(writes, rng),
            1 => vec![Self::Whole; writes],
            _ => vec![Self::Lost; writes],
        };
        let share = if rng.gen_bool(0.5) { 0.5 } else { 0.0 };
        for fate in &mut fates {
            if rng.gen_bool(share) {
                *fate = Self::of_a_torn_write(rng);
            }
        }
        if let Some(fate) = fates.choose_mut(rng) {
            *fate = Self::of_a_torn_write(rng);
        }
        fates
    }

    /// Puts what arrived of a write into the file's bytes. What lies behind a length that was never recorded is lost.
    fn write(self, bytes: &mut [u8], offset: usize, data: &[u8], rng: &mut StdRng) {
        let end = (offset + data.len()).min(bytes.len());
        let Some(place) = bytes.get_mut(offset..end) else {
            return;
        };
        let data = &data[..place.len()];
        match self {
            Self::Lost => {}
            Self::Whole => place.copy_from_slice(data),
            Self::Prefix => {
                let arrived = rng.gen_range(0..=data.len());
                place[..arrived].copy_from_slice(&data[..arrived]);
            }
            Self::Sectors => {
                let mut from = 0;
                while from < data.len() {
                    let in_sector = SECTOR_BYTES - (offset + from) % SECTOR_BYTES;
                    let to = (from + in_sector).min(data.len());
                    if rng.gen_bool(0.5) {
                        place[from..to].copy_from_slice(&data[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What reads see.
    pub(crate) live: Vec<u8>,
    /// What the last sync made durable.
    pub(crate) durable: Vec<u8>,
    /// Changes since then.
    pub(crate) pending: Vec<Write>,
    /// Calls that change something, so far.
    pub(crate) calls: usize,
    /// Which of them were syncs, counted from 0.
    pub(crate) syncs: Vec<usize>,
    pub(crate) accident: Option<(usize, Accident)>,
}

impl Disk {
    fn call(&mut self, is_write: bool) -> io::Result<()> {
        self.calls += 1;
        match self.accident {
            Some((at, Accident::Full(kind))) if is_write && self.calls > at => Err(kind.into()),
            Some((at, Accident::Hiccup)) if self.calls == at + 1 => {
                Err(io::ErrorKind::Other.into())
            }
            Some((at, Accident::PowerLoss | Accident::TornWrites)) if self.calls > at => {
                Err(io::ErrorKind::NotConnected.into())
            }
            _ => Ok(()),
        }
    }

    /// What is found after power is back: the durable bytes and some of the pending changes.
    pub(crate) fn after_power_loss(&self, fates: &[Fate], rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (write, fate) in self.pending.iter().zip(fates) {
            match write {
                Write::Length(_) if *fate == Fate::Lost => {}
                Write::Length(len) => bytes.resize(*len, 0),
                Write::Bytes(offset, data) => fate.write(&mut bytes, *offset, data, rng),
            }
        }
        bytes
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Backend(Arc<Mutex<Disk>>);

impl Backend {
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            durable: bytes.clone(),
            live: bytes,
            ..Disk::default()
        })))
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0
            .lock()
            .expect("no test panics while it holds the disk")
    }

    pub(crate) fn fail_at(&self, call: usize, accident: Accident) {
        self.disk().accident = Some((call, accident));
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.disk();
        let from = offset as usize;
        let bytes = disk.live.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(true)?;
        disk.live.resize(len as usize, 0);
        disk.pending.push(Write::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(false)?;
        let call = disk.calls - 1;
        disk.syncs.push(call);
        disk.durable = disk.live.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(true)?;
        let from = offset as usize;
        let place = disk.live.get_mut(from..from + data.len());
        place
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        disk.pending.push(Write::Bytes(from, data.to_vec()));
        Ok(())
    }
}
