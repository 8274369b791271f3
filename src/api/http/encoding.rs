//! Compression of answers: whether a client wants it, and the bytes.

use std::io::{self, Write};

use axum::http::{HeaderMap, header};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Whether gzip is accepted, and no less liked than no compression at all (RFC 9110, 12.5.3).
pub(super) fn wants_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    for item in values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = item.split(';');
        let coding = parts.next().unwrap_or_default().trim();
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("q")
                .then(|| value.trim().parse::<f32>().unwrap_or(0.0))
        });
        let quality = Some(quality.unwrap_or(1.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            gzip = quality;
        } else if coding.eq_ignore_ascii_case("identity") {
            identity = quality;
        } else if coding == "*" {
            any = quality;
        }
    }
    match gzip.or(any) {
        Some(quality) => quality > 0.0 && identity.is_none_or(|identity| quality >= identity),
        None => false,
    }
}

/// The fastest level that fits its code to the digits, which is nearly all there is to gain on hex.
const LEVEL: u32 = 2;

/// Compresses a body.
pub(super) fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(body.len() / 2 + 64);
    let mut encoder = GzEncoder::new(room, Compression::new(LEVEL));
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::http::HeaderValue;

    use super::*;

    fn wants(values: &[&'static str]) -> bool {
        let values = values.iter();
        wants_gzip(
            &values
                .map(|value| (header::ACCEPT_ENCODING, HeaderValue::from_static(value)))
                .collect(),
        )
    }

    #[test]
    fn gzip_is_taken_as_the_client_weighs_it() {
        for yes in [
            &["gzip"][..],
            &["GZIP"],
            &["deflate, gzip;q=0.5, br"],
            &["br", "gzip"],
            &["*"],
            &["gzip;q=1.0, identity; q=0.5, *;q=0"],
            &["gzip ; q=0.001"],
            &["*;q=0.5, identity;q=0.1"],
        ] {
            assert!(wants(yes), "{yes:?}");
        }
        for no in [
            &[][..],
            &[""],
            &["identity"],
            &["br"],
            &["gzip;q=0"],
            &["gzip;q=0, *"],
            &["*;q=0"],
            &["identity, gzip;q=0.5"],
            &["gzip;q=x"],
            &["gzipped"],
        ] {
            assert!(!wants(no), "{no:?}");
        }
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for body in [vec![], b"[]".to_vec(), vec![b'7'; 1 << 20]] {
            let zipped = gzip(&body).expect("into memory");
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&zipped[..])
                .read_to_end(&mut back)
                .expect("gzip");
            assert_eq!(back, body);
        }
    }
}
