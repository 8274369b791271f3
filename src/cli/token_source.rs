//! Whose watches are meant: a token, never from arguments, which every user of the machine can see.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use zeroize::Zeroizing;

use crate::private_file;

/// The token itself.
const TOKEN_VARIABLE: &str = "SPINDEX_TOKEN";

/// Most bytes of a token with the line end behind it.
const LONGEST_TOKEN: usize = 4096;

#[derive(Args)]
pub(super) struct TokenSource {
    /// File with the token, which nobody else may read. Without it the token is taken from the environment (SPINDEX_TOKEN); a server
    /// on this machine may do without
    #[arg(long, env = "SPINDEX_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask for the token on the terminal
    #[arg(long, conflicts_with = "token_file")]
    prompt: bool,
}

impl TokenSource {
    /// The token, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read or that others can, a terminal that is none, what is no token.
    pub(super) fn token(&self) -> Result<Option<Zeroizing<String>>> {
        let token = match &self.token_file {
            _ if self.prompt => {
                let line = rpassword::prompt_password("token (not shown): ");
                Some(Zeroizing::new(
                    line.context("cannot read from the terminal")?,
                ))
            }
            Some(path) => {
                let content = private_file::read(path)?;
                let text = std::str::from_utf8(&content).ok();
                let text = text.with_context(|| format!("{} holds no token", path.display()))?;
                Some(Zeroizing::new(text.to_owned()))
            }
            None => std::env::var(TOKEN_VARIABLE).ok().map(Zeroizing::new),
        };
        let Some(token) = token else { return Ok(None) };
        let bare = token.trim();
        let is_one_word = bare.bytes().all(|byte| byte.is_ascii_graphic());
        if bare.is_empty() || bare.len() > LONGEST_TOKEN || !is_one_word {
            bail!("what was given as a token is none: it is one word of plain text");
        }
        Ok(Some(Zeroizing::new(bare.to_owned())))
    }
}
