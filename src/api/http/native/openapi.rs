//! The description of these routes for programs.
//!
//! It is a document written by hand: a generator would want its derives on the types of [`crate::wire`], which have private
//! bodies for their JSON and are shared with the light client. That it says what is served, the tests see to: its paths are
//! the routes, and what the routes answer fits its schemas.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::api::http::Context;

/// OpenAPI 3.1.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /spindex/v1/openapi.json`.
pub(super) async fn document(State(context): State<Context>, headers: HeaderMap) -> Response {
    context.json(&headers, StatusCode::OK, DOCUMENT.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::wire::native::Code;

    fn described() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    #[test]
    fn its_paths_are_the_routes() {
        let described = described();
        let paths = described["paths"].as_object().expect("paths").keys();
        let paths: BTreeSet<&str> = paths.map(String::as_str).collect();
        let routes = crate::api::http::native::routes();
        let routes: BTreeSet<&str> = routes.iter().map(|route| route.path).collect();
        assert_eq!(paths, routes);
        let prefix = described["servers"][0]["url"].as_str();
        assert_eq!(prefix, Some(crate::wire::native::PREFIX));
    }

    #[test]
    fn its_codes_are_those_of_refusals() {
        let described = described();
        let mut codes = BTreeSet::new();
        for name in [
            "BadRequest",
            "Unauthorized",
            "Forbidden",
            "NotThere",
            "Conflict",
            "Cut",
            "Internal",
            "NotKept",
            "Busy",
        ] {
            let schema = &described["components"]["schemas"][name]["allOf"][1];
            let code = &schema["properties"]["error"]["properties"]["code"];
            let one = code["const"].as_str().into_iter();
            let several = code["enum"].as_array().into_iter().flatten();
            codes.extend(
                one.chain(several.filter_map(Value::as_str))
                    .map(str::to_owned),
            );
        }
        let known = [
            Code::BadRequest,
            Code::NotYetIndexed,
            Code::NeverIndexed,
            Code::Unknown,
            Code::ReorganisedAway,
            Code::Unauthorized,
            Code::Forbidden,
            Code::Limit,
            Code::Conflict,
            Code::Cut,
            Code::NotKept,
            Code::Busy,
            Code::Internal,
        ];
        let known = known.map(|code| serde_json::to_value(code).expect("a text"));
        let known = known.iter().filter_map(Value::as_str);
        assert_eq!(codes, known.map(str::to_owned).collect());
    }
}
