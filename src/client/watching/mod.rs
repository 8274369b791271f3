//! Processes as a relay or its devices follow them: what a server says of them, and how much of that is proven.
//!
//! [`audit`] holds a lineage against the blocks: each spend by a proof, each block by headers with the work they claim.

mod audit;
mod compare;

pub use audit::{Audit, AuditedStep, Claim, Claims, audit, told};
pub use compare::compare;
