//! Processes as a relay or its devices follow them: what a server says of them, and how much of that is proven.
//!
//! [`WatchServer`] registers what is watched, and reads and follows the log of what happened to it. [`audit()`] holds a lineage against the blocks: each spend by a proof, each block by headers with the work they claim.

mod audit;
mod compare;
mod log;
mod server;
mod tokens;

pub use audit::{Audit, AuditedStep, Claim, Claims, audit, told};
pub use compare::compare;
pub use log::{logged, watch_of};
pub use server::{FollowError, FollowSettings, WatchServer};
