//! Where exported files are read: below an address, in a folder or in a bucket.

use std::error::Error;
use std::sync::Arc;

use super::super::super::http::HttpOracle;
use super::super::super::{Oracle, OracleError};
use super::super::route;
use crate::exported::{Fault, FaultKind, Place, PlaceError};

/// Where files are.
#[derive(Clone)]
pub(in crate::client::native) enum Location {
    /// Below the base address of a server.
    Http(Arc<HttpOracle>),
    Place(Arc<Place>),
}

impl Location {
    /// Its name. No credentials.
    pub(in crate::client::native) fn describe(&self) -> String {
        match self {
            Self::Http(http) => http.describe(),
            Self::Place(place) => place.to_string(),
        }
    }

    /// The whole name of a file.
    pub(super) fn name_of(&self, file: &str) -> String {
        match self {
            Self::Http(http) => http.name_of(&route(file)),
            Self::Place(place) => place.full_name(file),
        }
    }

    /// What is wrong with a file.
    pub(super) fn fault(&self, file: &str, kind: FaultKind) -> OracleError {
        OracleError::File(Fault {
            name: self.name_of(file),
            kind,
        })
    }

    /// A file; of one that is longer than that, as much and a byte more.
    ///
    /// # Errors
    /// [`OracleError::File`] where it is not there or the place cannot be read, others where a server does not answer.
    pub(super) async fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, OracleError> {
        match self {
            Self::Http(http) => match http.file(&route(file), most).await {
                Err(
                    OracleError::NotFound { .. }
                    | OracleError::Declined { .. }
                    | OracleError::Refused {
                        status: 404 | 410, ..
                    },
                ) => Err(self.fault(file, FaultKind::Missing)),
                read => read,
            },
            Self::Place(place) => match place.read_up_to(file, most as u64).await {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err(self.fault(file, FaultKind::Missing)),
                Err(error) => Err(self.fault(file, FaultKind::Broken(why(&error)))),
            },
        }
    }
}

/// An error of a place, with its causes.
fn why(error: &PlaceError) -> String {
    let mut text = format!("it cannot be read ({error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.push(')');
    text
}
