//! Words of deployed servers that say more than the status they come with. Any other text under a passing status is
//! passing itself, whatever it says.

/// What version 1 servers say of a height whose header they do not have.
pub(super) const UNKNOWN_HEADER: &str = "could not fetch header inv";

/// What version 1 servers say of a filter they do not have: that of a block whose header they know and whose data
/// they never indexed, but also one that they failed to read.
pub(super) const NO_FILTER: &str = "could not get filter from db";

/// What spindex servers say where their node cannot tell who spent what: not now, and perhaps never.
const NO_DETAILS: [&str; 3] = [
    "this server has no node to ask",
    "the node could not give the block, try again later",
    "the node's block does not fit the index",
];

/// Whether words are an answer, so that the same question has the same answer for some time.
pub(super) fn are_final(words: &str) -> bool {
    words == UNKNOWN_HEADER || words == NO_FILTER || NO_DETAILS.contains(&words)
}

/// Whether words say that the details of spends are not to be had.
pub(super) fn lack_details(words: &str) -> bool {
    NO_DETAILS.contains(&words)
}
