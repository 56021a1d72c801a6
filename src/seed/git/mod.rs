//! git
use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;

use super::server::{Shared, text};

pub(super) async fn answer(_shared: &Shared, _request: Request) -> Response {
    text(StatusCode::NOT_FOUND, "soon")
}
