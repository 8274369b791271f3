//! Words of refusals. Deployed clients know some of them, and some of deployed servers' say more than the status they come
//! with. Any other text under a passing status is passing itself, whatever it says.

/// A height whose header is not there.
pub const UNKNOWN_HEADER: &str = "could not fetch header inv";

/// A filter that is not there. Of other servers: that of a block whose header they know and whose data they never indexed,
/// but also one that they failed to read.
pub const NO_FILTER: &str = "could not get filter from db";

/// A server that has no node.
pub const NO_NODE: &str = "this server has no node to ask";

/// The node gave no block.
pub const NO_BLOCK: &str = "the node could not give the block, try again later";

/// The node gave another block.
pub const OTHER_BLOCK: &str = "the node's block does not fit the index";

/// What spindex servers say where their node cannot tell who spent what: not now, and perhaps never.
const NO_DETAILS: [&str; 3] = [NO_NODE, NO_BLOCK, OTHER_BLOCK];

/// Whether words are an answer, so that the same question has the same answer for some time.
pub fn are_final(words: &str) -> bool {
    words == UNKNOWN_HEADER || words == NO_FILTER || NO_DETAILS.contains(&words)
}

/// Whether words say that the details of spends are not to be had.
pub fn lack_details(words: &str) -> bool {
    NO_DETAILS.contains(&words)
}
