//! Wallets that are scanned for at the same time, and their shared secrets.

use secp256k1::PublicKey;
use zeroize::Zeroizing;

use super::input::Input;
use super::judged::Judged;
use crate::curve::arch::Backend;
use crate::curve::batch::{Degenerate, Lockstep, Points, groups_for};
use crate::curve::batch_sizes::{BatchSizes, batch_points};
use crate::curve::generator::GeneratorTable;
use crate::curve::group::AffinePoint;
use crate::curve::outputs::OutputTargets;
use crate::curve::point::TweakPoint;
use crate::curve::products::ProductStage;
use crate::curve::sampling::Last;
use crate::curve::scalar::Scalar;
use crate::curve::scan::ScanTarget;
use crate::curve::schedule::{Bases, Schedule};
use crate::curve::wallets::{BucketDigits, WalletsStage};

/// Wallets that are scanned for at the same time.
pub(super) struct Pass {
    pub(super) members: Vec<Member>,
    steps: Steps,
    /// Of the member with this place.
    pub(super) last: Last<(usize, Judged)>,
}

/// A wallet of a pass.
pub(super) struct Member {
    /// Its place among all wallets.
    pub(super) wallet: usize,
    pub(super) targets: OutputTargets,
}

/// What leads from tweaks to shared secrets.
enum Steps {
    /// The schedules of a single wallet: from T, and from T and 2^64·T.
    Alone { one: Schedule, two: Schedule },
    /// The digits of each wallet, which share the multiples of T.
    Shared(Vec<BucketDigits>),
}

impl Pass {
    /// All passes of a scan. A wallet of which a shared step can fail is alone in its own. One of which any step can fail
    /// has none, and no wallet has if there is no table.
    pub(super) fn all(
        table: Option<&GeneratorTable>,
        sizes: &BatchSizes,
        targets: &[ScanTarget],
    ) -> Vec<Self> {
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        let members = targets.iter().enumerate();
        for member in members.filter_map(|(wallet, target)| Member::new(table?, wallet, target)) {
            let digits = match targets.len() {
                1 => None,
                _ => key_of(&targets[member.wallet]).and_then(|key| BucketDigits::new(&key)),
            };
            match digits {
                Some(digits) => shared.push((member, digits)),
                None => alone.push(member),
            }
        }
        if shared.len() == 1 {
            alone.extend(shared.drain(..).map(|(member, _)| member));
        }
        let alone = alone.into_iter().filter_map(|member| {
            let key = key_of(&targets[member.wallet])?;
            let one = Schedule::new(&key, Bases::One)?;
            let two = Schedule::new(&key, Bases::Two)?;
            Some(Self::new(vec![member], Steps::Alone { one, two }))
        });
        let mut passes: Vec<Self> = alone.collect();
        let size = batch_points(shared.len(), sizes.wallets);
        let mut shared = shared.into_iter().peekable();
        while shared.peek().is_some() {
            let (members, digits) = shared.by_ref().take(size).unzip();
            passes.push(Self::new(members, Steps::Shared(digits)));
        }
        passes
    }

    fn new(members: Vec<Member>, steps: Steps) -> Self {
        Self {
            members,
            steps,
            last: Last::default(),
        }
    }

    /// Whether its wallets share the multiples of each tweak.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.steps, Steps::Shared(_))
    }

    /// Most tweaks of a batch.
    pub(super) fn most_tweaks(&self, sizes: &BatchSizes) -> usize {
        match self.steps {
            Steps::Alone { .. } => sizes.scan,
            Steps::Shared(_) => sizes.shared_scan,
        }
    }
}

impl Member {
    /// `None` if a sum of the wallet's points is infinity.
    fn new(table: &GeneratorTable, wallet: usize, target: &ScanTarget) -> Option<Self> {
        let point = |bytes: &[u8; 33]| PublicKey::from_slice(bytes).ok();
        let labels: Option<Vec<PublicKey>> = target.labels.iter().map(point).collect();
        let targets = OutputTargets::new(table, &point(&target.spend_key)?, &labels?)?;
        Some(Self { wallet, targets })
    }
}

fn key_of(target: &ScanTarget) -> Option<Zeroizing<Scalar>> {
    Scalar::from_be_bytes(&target.scan_key).map(Zeroizing::new)
}

/// Room for the shared secrets of one batch.
pub(super) struct SecretStage<B: Backend> {
    backend: B,
    alone: ProductStage<B>,
    shared: WalletsStage<B>,
}

impl<B: Backend> SecretStage<B> {
    pub(super) fn new(backend: B) -> Self {
        Self {
            backend,
            alone: ProductStage::new(backend),
            shared: WalletsStage::new(backend),
        }
    }

    /// Computes the shared secrets of the tweaks that are loaded, for [`Self::of`].
    ///
    /// # Errors
    /// [`Degenerate`] if multiples are used, and there is not one on the curve for each tweak that is.
    pub(super) fn compute(
        &mut self,
        pass: &Pass,
        lockstep: &mut Lockstep<B>,
        input: &mut Input,
        multiples: Option<&[TweakPoint]>,
    ) -> Result<(), Degenerate> {
        let groups = groups_for::<B>(input.points.len());
        match (&pass.steps, multiples) {
            (Steps::Shared(digits), _) => {
                self.shared.resize(groups, digits.len());
                self.shared.multiply(lockstep, digits, &input.points)
            }
            (Steps::Alone { one, .. }, None) => {
                self.alone.resize(groups, Bases::One);
                self.alone.multiply(lockstep, one, &[&input.points])
            }
            (Steps::Alone { two, .. }, Some(multiples)) => {
                input.load_multiples(self.backend, multiples)?;
                self.alone.resize(groups, Bases::Two);
                let bases: [&[AffinePoint]; 2] = [&input.points, &input.multiples];
                self.alone.multiply(lockstep, two, &bases)
            }
        }
    }

    /// Those of the member with this place.
    pub(super) fn of(&self, pass: &Pass, member: usize) -> &Points<B> {
        match pass.steps {
            Steps::Alone { .. } => &self.alone.value,
            Steps::Shared(_) => self.shared.product(member),
        }
    }
}
