//! The light client against a version 1 server over a made-up chain: everything that is there is found, nothing else,
//! whatever the server and the chain do meanwhile.

mod answers;
mod contradictions;
mod faulty_engine;
mod finding;
mod first_block;
mod outpoints;
mod ranges;
mod reorgs;
mod resuming;
mod scene;
mod server;
mod unresolved;
mod world;
