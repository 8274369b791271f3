//! Which transactions are asked for: parameters of columns.

use super::{NativeError, digits};
use crate::wire::native::selection::Rule;

/// The rule of `dust_limit` (satoshi) and `cut_through` (`true` or `false`), if one of them is given.
pub(super) fn rule(
    dust_limit: Option<String>,
    cut_through: Option<String>,
) -> Result<Option<Rule>, NativeError> {
    if dust_limit.is_none() && cut_through.is_none() {
        return Ok(None);
    }
    let dust_limit_sat = match dust_limit {
        Some(value) => digits(&value).ok_or_else(|| {
            NativeError::BadRequest(format!(
                "dust_limit={value:?} is no number up to {}",
                u64::MAX
            ))
        })?,
        None => 0,
    };
    let cut_through = match cut_through.as_deref() {
        Some("true") => true,
        Some("false") | None => false,
        Some(other) => {
            let text = format!("cut_through={other:?} is neither true nor false");
            return Err(NativeError::BadRequest(text));
        }
    };
    Ok(Some(Rule {
        dust_limit_sat,
        cut_through,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_strict() {
        let asked = |dust_limit: Option<&str>, cut_through: Option<&str>| {
            rule(
                dust_limit.map(str::to_owned),
                cut_through.map(str::to_owned),
            )
            .ok()
        };
        let made = |dust_limit_sat, cut_through| {
            Some(Some(Rule {
                dust_limit_sat,
                cut_through,
            }))
        };
        assert_eq!(asked(None, None), Some(None));
        assert_eq!(asked(Some("0"), None), made(0, false));
        assert_eq!(asked(Some("546"), Some("false")), made(546, false));
        assert_eq!(asked(None, Some("true")), made(0, true));
        let most = "18446744073709551615";
        assert_eq!(asked(Some(most), Some("true")), made(u64::MAX, true));
        for wrong in ["", "+1", "-1", " 1", "1.5", "18446744073709551616"] {
            assert_eq!(asked(Some(wrong), None), None, "{wrong:?}");
        }
        for wrong in ["", "1", "True", "yes", "true "] {
            assert_eq!(asked(None, Some(wrong)), None, "{wrong:?}");
        }
    }
}
